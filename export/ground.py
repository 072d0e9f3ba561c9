"""One slide or image laid out in the windows that the engine cuts from it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.manifest import Manifest
from glassrt.engine.errors import SlideError
from glassrt.engine.flow.cut import cut_windows
from glassrt.engine.geometry.boxes import Indices, Size
from glassrt.engine.geometry.plan import Plan, plan
from glassrt.engine.slides.fingerprint import fingerprint
from glassrt.engine.slides.frames import keep_scanned
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.image_file import IMAGE_SUFFIXES
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.slide import Slide
from glassrt.engine.slides.tissue.masks import widen
from glassrt.engine.slides.tissue.survey import look_over, refuse_doubtful
from glassrt.engine.tasks.segment import DEFAULT_READERS
from glassrt.engine.tasks.segmentation import COARSEST_RATIO
from glassrt.engine.watch import Clock
from glassrt.export.samples import Samples

LEAST_TISSUE = 0.25  # of a window's area
BORDERS = 24  # that are tried along each side to split a slide at

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Ground:
    """A file's windows at the resolution `mpp`.

    `plan` is the engine's own; `usable` are the numbers of the windows that hold enough tissue, in the order in which
    they are to be taken. `stated_mpp` is given to a file that says none.
    """

    path: Path
    fingerprint: str
    mpp: float
    stated_mpp: float | None
    base_size: Size
    plan: Plan
    usable: Indices

    def cut(self, numbers: Indices) -> Samples:
        """Windows as the engine cuts them: from its whole regions, reflected at the image's end."""
        with open_slide(self.path, self.stated_mpp) as slide:
            return cut_windows(GridReader(slide, self.mpp), self.plan, numbers, Clock())

    def split(self, shares: Sequence[int]) -> list["Ground"]:
        """Its windows in strips that share no pixel, their numbers as near to `shares` as can be.

        Windows that lie across a border between strips, or whose surroundings do, are in none.
        """
        boxes = self._boxes(self.usable)
        best, most = [self.usable[:0]] * len(shares), -1.0
        for axis in (0, 1):
            low, high = boxes[:, axis], boxes[:, axis + 2]
            ends = np.unique(np.quantile(high, np.linspace(0, 1, BORDERS), method="nearest"))
            for borders in combinations(ends.tolist(), len(shares) - 1):
                strips = zip([0, *borders], [*borders, np.inf], strict=True)
                parts = [self.usable[(low >= start) & (high <= end)] for start, end in strips]
                least = min(len(part) / share for part, share in zip(parts, shares, strict=True))
                if least > most:
                    best, most = parts, least
        return [replace(self, usable=part) for part in best]

    def outside(self, box: Box) -> "Ground":
        """The windows that share no pixel with a box of level 0, nor do their surroundings."""
        left, top, right, bottom = self._base_boxes(self.usable).T
        apart = (right <= box[0]) | (left >= box[2]) | (bottom <= box[1]) | (top >= box[3])
        return replace(self, usable=self.usable[apart])

    def around(self, numbers: Indices) -> Box:
        """The box of level 0 that windows and their surroundings were made from."""
        boxes = self._base_boxes(numbers)
        (left, top), (right, bottom) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
        return left, top, right, bottom

    def _boxes(self, numbers: Indices) -> Indices:
        """`[n, 4]`: the grid pixels that windows are made from, with all that any other input shows of them."""
        boxes = self.plan.fine.boxes(self.plan.windows[numbers])
        for layer in self.plan.layers[1:]:
            around = layer.boxes(layer.windows[layer.of[numbers]]) + np.array([-1, -1, 1, 1])  # read in interpolating
            scaled = around.clip(0, np.tile(layer.size, 2)) * np.tile(np.array(self.plan.size) / layer.size, 2)
            low, high = np.floor(scaled[:, :2]).astype(np.int64), np.ceil(scaled[:, 2:]).astype(np.int64)
            boxes = np.concatenate([np.minimum(boxes[:, :2], low), np.maximum(boxes[:, 2:], high)], axis=1)
        return boxes

    def _base_boxes(self, numbers: Indices) -> Indices:
        scaled = self._boxes(numbers) * np.tile(np.array(self.base_size) / np.array(self.plan.size), 2)
        return np.concatenate([np.floor(scaled[:, :2]), np.ceil(scaled[:, 2:])], axis=1).astype(np.int64)


def open_ground(path: Path, manifest: Manifest) -> Ground | None:
    """A file's windows under a bundle's scales; None if it is no slide or image that can be read or shows no tissue.

    Images that do not say their resolution are taken to have the bundle's. The order depends on the file alone.
    """
    opened = open_stated(path, manifest.mpp)
    if opened is None:
        return None
    slide, stated_mpp = opened
    with slide:
        if slide.mpp > COARSEST_RATIO * manifest.mpp:
            return None
        try:
            grid = GridReader(slide, manifest.mpp)
            survey = look_over(slide, DEFAULT_READERS)
            refuse_doubtful(survey, slide.name)
        except SlideError:
            return None  # as it would not be scored
        tissue = keep_scanned(survey.tissue, slide)
        size = (grid.width, grid.height)
        searched = widen(tissue, survey.mpp)
        laid = plan(size, *manifest.views, manifest.inputs, manifest.stride, searched)
        base_size = slide.levels[0].size
    boxes = laid.fine.boxes(laid.windows) / np.array([*size, *size])
    mirrored = np.array([view.flip for view in laid.views])[laid.windows[:, 0]]
    usable = np.flatnonzero((tissue_shares(tissue, boxes) >= LEAST_TISSUE) & ~mirrored)
    mark = fingerprint(path)
    order = shuffle(usable, laid.windows[usable, 0], np.random.default_rng(int(mark[:16], 16)))
    return Ground(path, mark, manifest.mpp, stated_mpp, base_size, laid, order) if len(order) else None


def open_stated(path: Path, mpp: float) -> tuple[Slide, float | None] | None:
    """A slide, or an image that says its resolution, or one that is given `mpp`, which is then told as well."""
    for stated in (None, mpp) if path.suffix.lower() in IMAGE_SUFFIXES else (None,):
        try:
            return open_slide(path, stated), stated
        except SlideError:
            continue
    return None


def tissue_shares(tissue: NDArray[np.bool_], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of tissue in each box (left, top, right, bottom as fractions of the whole mask)."""
    height, width = tissue.shape
    sums = np.zeros((height + 1, width + 1), np.int64)
    sums[1:, 1:] = tissue.cumsum(0).cumsum(1)
    extent = np.array([width, height])
    low = np.minimum(np.floor(boxes[:, :2] * extent).astype(np.int64), extent - 1)
    high = np.clip(np.ceil(boxes[:, 2:] * extent).astype(np.int64), low + 1, extent)
    (left, top), (right, bottom) = low.T, high.T
    covered = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    shares: NDArray[np.float64] = covered / ((right - left) * (bottom - top))
    return shares


def shuffle(numbers: Indices, views: Indices, random: np.random.Generator) -> Indices:
    """Numbers of windows in random order, one of each view in turn."""
    order = random.permutation(len(numbers))
    numbers, views = numbers[order], views[order]
    turn = np.zeros(len(numbers), np.int64)
    for view in np.unique(views):
        turn[views == view] = np.arange(np.count_nonzero(views == view))
    return numbers[np.lexsort((random.permutation(len(numbers)), turn))]


def find_files(folder: Path) -> Iterable[Path]:
    """The files of a folder in the order of their fingerprints, those of one slide, or with the same bytes, once."""
    marks: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        try:
            marks.setdefault(fingerprint(path), path)
        except OSError:
            continue  # what cannot be read is no slide for us
    return [marks[mark] for mark in sorted(marks)]
