"""Multi-scale sliding-window segmentation of a slide or an image (OEEM section 2.3)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import UsageError
from glassrt.engine.flow.dual import DualRunner
from glassrt.engine.flow.host import HostRunner
from glassrt.engine.flow.runner import Runner, Sink
from glassrt.engine.geometry.boxes import Size
from glassrt.engine.geometry.plan import Plan, plan
from glassrt.engine.maps.canvas import Canvas, Tile
from glassrt.engine.runtimes.chain import Chain
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.watch import Watch

DEFAULT_READERS = 2
MOST_READERS = 64


def lay_windows(grid: GridReader, bundle: Bundle, tissue: NDArray[np.bool_] | None = None) -> Plan:
    """The windows of a grid under the bundle's scales and flips; without those that hold no tissue. Raises UsageError
    for a bundle that takes none.
    """
    test = bundle.manifest
    if not test.inputs:
        raise UsageError(f"{bundle.path} takes features that were stored before, not slides: name files of them (.h5)")
    return plan((grid.width, grid.height), *test.views, test.inputs, test.stride, tissue)


def segment(
    grid: GridReader,
    windows: Plan,
    bundle: Bundle,
    backend: Backend,
    map_size: tuple[int, int],
    place: Callable[[Tile], None],
    readers: int = DEFAULT_READERS,
    watch: Watch | None = None,
    collect: Callable[[Canvas], Sink] | None = None,
) -> None:
    """Run the planned windows and hand finished tiles of the map to `place`, from top to bottom.

    `collect` makes what takes the network's outputs, if they are more than the logits that the canvas takes.

    `map_size` is (width, height); memory does not grow with it, nor with the slide, but for features of surroundings
    that windows at several scales share: SlideError where these would be too many (`DualRunner`). UsageError for a
    bundle of tiles where nothing collects what they are.
    """
    if collect is None:
        refuse_tiles(bundle)
    manifest = bundle.segmentation
    canvas = Canvas(windows, manifest.output_stride, map_size, place, manifest.contoured)
    choose_runner(backend, readers).run(grid, windows, collect(canvas) if collect else canvas, watch or Watch())


def refuse_tiles(bundle: Bundle) -> None:
    """Raise UsageError for a bundle that gives other than the logits of a map."""
    if not any(spec.name == "logits" and len(spec.shape or ()) == 4 for spec in bundle.segmentation.whole.outputs):
        raise UsageError(f"{bundle.path} is for tiles of slides as a whole: use `glassrt score`")


def choose_runner(backend: Backend, readers: int) -> Runner:
    """What runs windows through this backend."""
    return DualRunner(backend, readers) if isinstance(backend, Chain) else HostRunner(backend, readers)


class ImageMap(NamedTuple):
    """Class probabilities `[C, H, W]` of an image, and what of a class lies at its contours, `[H, W]`, where a bundle
    tells these.
    """

    probabilities: NDArray[np.float32]
    contour: NDArray[np.float32] | None


def segment_image(pixels: NDArray[np.uint8], mpp: float, bundle: Bundle, backend: Backend) -> NDArray[np.float32]:
    """Class probabilities `[C, H, W]` of a whole image, uint8 RGB `[H, W, 3]` at `mpp` micrometres per pixel.

    The map has the size of the image at the bundle's mpp, which is the image's own where the two agree.
    Every window is computed, whether it holds tissue or not.
    """
    return map_image(pixels, mpp, bundle, backend).probabilities


def map_image(
    pixels: NDArray[np.uint8], mpp: float, bundle: Bundle, backend: Backend, size: Size | None = None
) -> ImageMap:
    """All that a bundle tells of an image, as `segment_image`; in a map of another `size`, (width, height)."""
    manifest = bundle.segmentation
    grid = GridReader(ArraySlide(pixels, mpp), manifest.mpp)
    width, height = size or (grid.width, grid.height)
    probabilities = np.zeros((len(manifest.classes), height, width), np.float32)
    contour = np.zeros((height, width), np.float32) if manifest.contoured else None

    def place(tile: Tile) -> None:
        rows, columns = tile.analysed.shape
        part = np.s_[tile.top : tile.top + rows, tile.left : tile.left + columns]
        probabilities[:, *part] = tile.probabilities
        if contour is not None and tile.contour is not None:
            contour[part] = tile.contour

    segment(grid, lay_windows(grid, bundle), bundle, backend, (width, height), place)
    return ImageMap(probabilities, contour)
