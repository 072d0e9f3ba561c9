"""Maps of suspicion: the probability of disease over whole slides, kept in a folder that two processes may share.

One process runs the newest weights over slides and publishes each slide's map whole or not at all; another draws
patches from the latest maps (Pinchaud, beta-KL, section 3.1.2 and Figure 2).
"""

import math
import resource
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError, SlideError, TrainingError, first_line
from glassrt.engine.files import output_errors, replace_file
from glassrt.engine.flow.host import HostRunner
from glassrt.engine.geometry.boxes import Size, bands
from glassrt.engine.geometry.coverage import cover
from glassrt.engine.geometry.plan import InputSpec, plan
from glassrt.engine.maps.canvas import Canvas, Tile
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.slide import Slide
from glassrt.engine.slides.tissue.annotations import ALL, AUTO
from glassrt.engine.slides.tissue.scope import Scope, find_scope
from glassrt.engine.tasks.segment import DEFAULT_READERS
from glassrt.engine.tasks.segmentation import COARSEST_RATIO
from glassrt.engine.watch import Watch
from glassrt.training.datasets.weak import WeakSlide
from glassrt.training.suspicion import Suspicions

MALIGN = 1  # the class that maps tell the probability of
UNMAPPED = 0.5  # what is suspected of tissue before it is mapped
LEAST = float(np.finfo(np.float16).smallest_subnormal)  # suspected of any tissue, so that it may be drawn
READERS = 1
FILES_A_SLIDE, OTHER_FILES = 4, 256  # the slide and its maps of two generations; what a process holds besides
ROWS = 512  # of a map that are looked over at a time
REMEDY = "begin the run anew in another --out"


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


def open_grounds(slides: Sequence[WeakSlide], mpp: float, map_mpp: float, least: int) -> list[Ground]:
    """Slides that are drawn from together, of at least so many pixels to a side at `mpp`, each of a name of its own.

    Raises DatasetError, SlideError, and TrainingError where the system does not let so many be open at once.
    """
    if twice := [name for name, count in Counter(slide.name for slide in slides).items() if count > 1]:
        raise DatasetError(f"two slides are named {twice[0]}, so their maps would be one: rename a file")
    allow_open_files(FILES_A_SLIDE * len(slides) + OTHER_FILES)
    grounds = [open_ground(slide, mpp, map_mpp) for slide in slides]
    for ground in grounds:
        if min(ground.grid.width, ground.grid.height) < least:
            raise DatasetError(f"{ground.slide.path} is smaller than a patch; leave it out, or lower patch")
    return grounds


def allow_open_files(count: int) -> None:
    """Let this process hold so many open files. Raises TrainingError where the system does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and count > hard:
        raise TrainingError(
            f"so many slides need {count} open files, and this system allows {hard}: raise `ulimit -Hn`"
        )
    if soft != resource.RLIM_INFINITY and count > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


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
            self.folder.mkdir(exist_ok=True)  # in a run that is there
        with replace_file(path) as beside, beside.open("wb") as file:
            np.save(file, suspicions, allow_pickle=False)

    def load(self, ground: Ground) -> Suspicions:
        """A slide's map, of which memory holds what is looked at. Raises TrainingError for none of this slide."""
        path, (width, height) = self.file(ground), ground.map_size
        try:
            suspicions: Suspicions = np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            raise TrainingError(f"{path}: the map cannot be read ({first_line(error)})") from error
        except (ValueError, EOFError) as error:
            raise TrainingError(f"{path} is no map ({first_line(error)}): {REMEDY}") from error
        if suspicions.shape != (height, width) or suspicions.dtype != np.float16:
            raise TrainingError(
                f"{path} is {suspicions.dtype} {list(suspicions.shape)}, but the map of its slide is float16 "
                f"[{height}, {width}]: {REMEDY}"
            )
        return suspicions

    def begin(self, ground: Ground) -> None:
        """Make the map of a slide that no network has seen, all of its tissue alike, where there is none yet.

        Raises DatasetError for a slide without tissue, and SlideError.
        """
        if self.file(ground).exists():
            return
        tissue, (width, height) = find_tissue(ground.grid.slide).tissue, ground.map_size
        suspicions = np.zeros((height, width), np.float16)
        for top, bottom in bands(height, ROWS):
            touched = cover(tissue, ground.map_size, 0, top, (width, bottom - top)) > 0
            suspicions[top:bottom] = np.where(touched, UNMAPPED, 0)
        if not suspicions.any():
            raise DatasetError(
                f"{ground.slide.path}: no tissue is found on it, so nothing is learned of it; leave it out"
            )
        self.publish(ground, suspicions)


def find_tissue(slide: Slide) -> Scope:
    """What of a slide is analysed: its tissue; all of it where the picture leaves in doubt what that is."""
    try:
        return find_scope(slide, AUTO, DEFAULT_READERS)
    except SlideError:
        return find_scope(slide, ALL, DEFAULT_READERS)  # which raises again unless tissue was all that was in doubt


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
