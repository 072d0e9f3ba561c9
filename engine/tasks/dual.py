"""A slide and a dual-input bundle: what `segmentation` does, with what the surroundings of windows may cost or lack."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from glassrt.engine.geometry.plan import Layer, Plan
from glassrt.engine.results.figures import Result
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.tasks.segmentation import SegmentSlide
from glassrt.engine.tasks.work import Work

MOST_TIMES = 3.9  # the pixels needed: a level twice as fine as the surroundings, but for rounding


class DualSlide(SegmentSlide):
    """As `SegmentSlide`; its figures count the surroundings that were computed."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._scope = self._scope.warn(*doubt_context(self._grid, self._windows))

    def run(self, folder: Path, out: Path) -> Result:
        result = super().run(folder, out)
        return msgspec.structs.replace(result, windows={**result.windows, "contexts": self._work.watch.contexts})


def doubt_context(grid: GridReader, windows: Plan) -> Iterator[str]:
    """A line on surroundings that are read from far more pixels than they have, and one on those that are wider than
    the slide.
    """
    for layer in windows.layers[1:]:
        yield from doubt_level(grid.at(layer.input.factor), grid.mpp * layer.input.factor)
        yield from doubt_width(layer, grid.mpp * layer.input.factor)


def doubt_level(coarse: GridReader, mpp: float) -> Iterator[str]:
    """A line on a pyramid without a level near `mpp`."""
    width, height = coarse.slide.levels[coarse.level].size
    times = width * height / (coarse.width * coarse.height)
    if times >= MOST_TIMES:
        yield (
            f"no level of the slide's pyramid is near the {mpp:.3g} micrometres per pixel of the windows' "
            f"surroundings: {times:.0f} times as many pixels are read for them, from level {coarse.level}; a copy with "
            "more levels is scored faster"
        )


def doubt_width(layer: Layer, mpp: float) -> Iterator[str]:
    """A line on a slide that is smaller than the surroundings of one window, at the scale where they are widest."""
    side = layer.input.side
    view = min(layer.views, key=lambda view: view.scale)
    if min(view.width, view.height) < side:
        yield (
            f"the surroundings of a window are {side * mpp / view.scale / 1000:.2g} mm wide, more than the slide: what "
            "lies beyond its border is the slide mirrored"
        )
