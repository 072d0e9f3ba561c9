"""Maps of suspicion: the probability of disease over whole slides, kept in a folder that two processes may share.

One process runs the newest weights over slides and publishes each slide's map whole or not at all; another draws
patches from the latest maps (Pinchaud, beta-KL, section 3.1.2 and Figure 2).
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError, TrainingError, first_line
from glassrt.engine.files import output_errors, replace_file
from glassrt.engine.flow.host import HostRunner
from glassrt.engine.geometry.boxes import Size
from glassrt.engine.geometry.coverage import cover
from glassrt.engine.geometry.plan import InputSpec, plan
from glassrt.engine.maps.canvas import Canvas, Tile
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.tissue.annotations import AUTO
from glassrt.engine.slides.tissue.scope import find_scope
from glassrt.engine.tasks.segmentation import COARSEST_RATIO
from glassrt.engine.watch import Watch
from glassrt.training.datasets.weak import WeakSlide
from glassrt.training.suspicion import Suspicions

MALIGN = 1  # the class that maps tell the probability of
UNMAPPED = 0.5  # what is suspected of tissue before it is mapped
LEAST = float(np.finfo(np.float16).smallest_subnormal)  # suspected of any tissue, so that it may be drawn
READERS = 1


class Ground(NamedTuple):
    """A slide at the resolution that is learned at, and the (width, height) of its map."""

    slide: WeakSlide
    grid: GridReader
    map_size: Size


def open_ground(slide: WeakSlide, mpp: float, map_mpp: float) -> Ground:
    """The slide opened, for as long as the process lives. Raises DatasetError and SlideError."""
    opened = open_slide(slide.path, slide.mpp)
    if opened.mpp > COARSEST_RATIO * mpp:
        raise DatasetError(f"{slide.path} has {opened.mpp:g} micrometres per pixel, too coarse for an mpp of {mpp:g}")
    grid = GridReader(opened, mpp)
    across, down = (max(1, math.ceil(each * mpp / map_mpp)) for each in (grid.width, grid.height))
    return Ground(slide, grid, (across, down))


class MapFolder(NamedTuple):
    """The maps of slides, a file each: `[h, w]` float16, the probability of disease on tissue, 0 elsewhere."""

    folder: Path

    def file(self, ground: Ground) -> Path:
        """Where a slide's map is, or will be."""
        return self.folder / f"{ground.slide.name}.npy"

    def publish(self, ground: Ground, suspicions: Suspicions) -> None:
        """Write a slide's map, in place of the one before in one step. Raises OutputError."""
        path = self.file(ground)
        with output_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as beside, beside.open("wb") as file:
            np.save(file, suspicions, allow_pickle=False)

    def load(self, ground: Ground) -> Suspicions:
        """A slide's map, of which memory holds what is looked at. Raises TrainingError for none of this slide."""
        path, (width, height) = self.file(ground), ground.map_size
        try:
            suspicions: Suspicions = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise TrainingError(f"{path} is no map ({first_line(error)}): delete it, and it is made anew") from error
        if suspicions.shape != (height, width) or suspicions.dtype != np.float16:
            raise TrainingError(
                f"{path} is {suspicions.dtype} {list(suspicions.shape)}, but the map of its slide is float16 "
                f"[{height}, {width}]: delete it, and it is made anew"
            )
        return suspicions

    def begin(self, ground: Ground) -> None:
        """Make the map of a slide that no network has seen, all of its tissue alike, where there is none yet.

        Raises DatasetError for a slide without tissue, and SlideError.
        """
        if self.file(ground).exists():
            return
        slide, size = ground.grid.slide, ground.map_size
        tissue = cover(find_scope(slide, AUTO, READERS).tissue, size, 0, 0, size) > 0
        if not tissue.any():
            raise DatasetError(
                f"{ground.slide.path}: no tissue is found on it, so nothing is learned of it; leave it out"
            )
        self.publish(ground, np.where(tissue, UNMAPPED, 0).astype(np.float16))


def map_slide(
    ground: Ground, tissue: NDArray[np.bool_], backend: Backend, window: int, output_stride: int
) -> Suspicions:
    """A slide's map, as the engine serves it: from windows with tissue, overlapping by a fifth. Raises SlideError."""
    grid = ground.grid
    inputs = (InputSpec("image", window),)
    windows = plan((grid.width, grid.height), (1.0,), False, inputs, window * 4 // 5, tissue)
    suspicions = np.zeros(tissue.shape, np.float16)

    def place(tile: Tile) -> None:
        height, width = tile.analysed.shape
        suspicions[tile.top : tile.top + height, tile.left : tile.left + width] = tile.probabilities[MALIGN]

    canvas = Canvas(windows, output_stride, ground.map_size, place)
    HostRunner(backend, READERS).run(grid, windows, canvas, Watch())
    return np.where(tissue, np.maximum(suspicions, np.float16(LEAST)), np.float16(0))
