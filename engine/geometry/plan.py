"""Every window that a slide needs, and the cells that they are read by.

Frames: `grid` is the slide at the bundle's mpp; `scaled` is the grid resized by one scale; `map` is the result. All use
half-pixel centres.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import Box, Indices, Size, unite
from glassrt.engine.geometry.coverage import holds_tissue
from glassrt.engine.geometry.views import View, lay_views, scale_size, shrink

CELL_STRIDES = 4  # a cell's side in strides: 4 reads 13 % more pixels than it hands on, at 3.5 MB a region


@dataclass(frozen=True)
class Part:
    """The windows of one cell and one view: `box` is what they cover of the scaled image."""

    cell: int
    view: int
    box: Box


class InputSpec(NamedTuple):
    """One input of a window: `side` pixels, each as large as `factor` of the fine input's.

    Above 1 it is the fine window's surroundings: around the middle of what that shows of the image (`centre`), or a
    window of a lattice that all fine windows within it share (`tile`). `placed`: the network is told where in it the
    fine window lies.
    """

    name: str
    side: int
    factor: float = 1.0
    anchor: Literal["centre", "tile"] = "centre"
    placed: bool = False


@dataclass(frozen=True)
class Layer:
    """The windows of one input on the grid that is `input.factor` times coarser, of `size` pixels.

    `windows` is `[n, 3]`: view, x, y in scaled pixels. Windows that begin close together form a cell, whose region is
    read once; `cell_of` gives each window's cell and rises. `of` gives the number of the window here that belongs to
    each of the fine layer's.
    """

    input: InputSpec
    size: Size
    views: tuple[View, ...]
    windows: Indices
    cell_of: Indices
    of: Indices

    def boxes(self, windows: Indices) -> Indices:
        """`[n, 4]` left, top, right, bottom: the pixels of the layer's grid that windows are interpolated from."""
        return grid_boxes(self.size, self.views, self.input.side, windows)

    @cached_property
    def part_of(self) -> Indices:
        """The number of each window's part; it rises from 0."""
        new = np.any(np.diff(np.column_stack([self.cell_of, self.windows[:, 0]]), axis=0) != 0, axis=1)
        return np.concatenate([[0], np.cumsum(new)])[: len(self.windows)]

    @cached_property
    def parts(self) -> list[Part]:
        """The parts by number."""
        first = np.maximum(self.windows[:, 1:], 0)
        end = np.minimum(self.windows[:, 1:] + self.input.side, sizes(self.views)[self.windows[:, 0]])
        starts = np.flatnonzero(np.diff(self.part_of, prepend=-1))
        return [
            Part(cell, view, box)
            for cell, view, box in zip(
                self.cell_of[starts].tolist(), self.windows[starts, 0].tolist(), unite(first, end, starts), strict=True
            )
        ]

    @cached_property
    def cells(self) -> dict[int, Box]:
        """The region of each cell by its number, in grid pixels: the smallest that its windows need."""
        boxes = self.boxes(self.windows)
        starts = np.flatnonzero(np.diff(self.cell_of, prepend=-1))
        united = unite(boxes[:, :2], boxes[:, 2:], starts)
        return dict(zip(self.cell_of[starts].tolist(), united, strict=True))


@dataclass(frozen=True)
class Plan:
    """Every window that a slide needs, in reading order: of each input a layer, the fine one first.

    `skipped` counts the windows left out because they hold no tissue.
    """

    layers: tuple[Layer, ...]
    skipped: int

    @property
    def fine(self) -> Layer:
        """The layer that decides where windows lie."""
        return self.layers[0]

    @property
    def size(self) -> Size:
        """Width and height of the grid."""
        return self.fine.size

    @property
    def views(self) -> tuple[View, ...]:
        """The grid at each scale, mirrored or not."""
        return self.fine.views

    @property
    def window(self) -> int:
        """Pixels of a fine window's side."""
        return self.fine.input.side

    @property
    def windows(self) -> Indices:
        """`[n, 3]` view, x, y of the fine windows in scaled pixels."""
        return self.fine.windows

    def places(self, indices: Indices) -> NDArray[np.float32]:
        """`[n, 2]` x, y of these fine windows' first pixels in their surroundings, as fractions of those' side.

        As the network sees both: in a mirrored view from the right. One of the inputs has to be placed.
        """
        (around,) = (layer for layer in self.layers if layer.input.placed)
        windows, side = self.windows[indices], around.input.side
        ratio = (sizes(around.views) / sizes(self.views))[windows[:, 0]]
        places = (windows[:, 1:] * ratio - around.windows[around.of[indices], 1:]) / side
        mirrored = np.array([view.flip for view in self.views])[windows[:, 0]]
        places[mirrored, 0] = 1 - places[mirrored, 0] - (self.window * ratio / side)[mirrored, 0]
        return places.astype(np.float32)


def plan(
    size: Size,
    scales: Sequence[float],
    flips: bool,
    inputs: Sequence[InputSpec],
    stride: int,
    tissue: NDArray[np.bool_] | None = None,
) -> Plan:
    """The windows of a grid of `size` (width, height), without those that hold no tissue.

    The first of the `inputs`, of factor 1, lies at every `stride` pixels; the others lie around it. `tissue` is a mask
    over the whole grid at any resolution; None keeps every window.
    """
    fine, *others = inputs
    assert fine.factor == 1
    views = lay_views(size, scales, flips, fine.side, stride)
    tables = []
    for index, view in enumerate(views):
        ys, xs = np.meshgrid(view.ys, view.xs, indexing="ij")
        tables.append(np.column_stack([np.full(xs.size, index), xs.ravel(), ys.ravel()]))
    windows = np.concatenate(tables).astype(np.int64)
    boxes = grid_boxes(size, views, fine.side, windows)
    skipped = 0
    if tissue is not None:
        kept = holds_tissue(tissue, boxes / np.array([*size, *size]))
        skipped = int(len(kept) - kept.sum())
        windows, boxes = windows[kept], boxes[kept]
    cell_of = number_cells(size, boxes[:, :2], stride, fine.side, others)
    order = np.lexsort((windows[:, 1], windows[:, 2], windows[:, 0], cell_of))
    first = Layer(fine, size, views, windows[order], cell_of[order], np.arange(len(windows)))
    return Plan((first, *(lay_around(first, each) for each in others)), skipped)


def number_cells(size: Size, first: Indices, stride: int, fine_side: int, others: Sequence[InputSpec]) -> Indices:
    """The cell of each fine window that begins at a grid pixel `first` `[n, 2]`: of some strides, in rows.

    With shared surroundings it is what has the same at scale 1, or a part where that is large, so that the windows of
    one come one after another.
    """
    shared = [each for each in others if each.anchor == "tile"]
    if not shared:
        side = CELL_STRIDES * stride
        cells = first // side
        return cells[:, 1] * (size[0] // side + 1) + cells[:, 0]
    around, shown = shared[0], np.array(size)
    wider = np.array(shrink(size, around.factor))
    step = tile_step(around, fine_side, shown, wider)
    starts = tile_starts(around, step, first, shown, wider)
    parts = np.maximum(1, np.rint(step * shown / wider / (CELL_STRIDES * stride)).astype(np.int64))
    part = (first * wider - starts * shown) * parts // (step * shown)
    rows_first = np.column_stack([starts[:, 1], starts[:, 0], part[:, 1], part[:, 0]])
    _, cell_of = np.unique(rows_first, axis=0, return_inverse=True)
    return np.asarray(cell_of.reshape(-1), np.int64)


def lay_around(fine: Layer, around: InputSpec) -> Layer:
    """The windows of a further input: the surroundings of fine windows, wherever these lie, as its anchor says."""
    number, first = fine.windows[:, 0], np.maximum(fine.windows[:, 1:], 0)
    size, views = widen_views(fine, around.factor)
    shown, wider = sizes(fine.views)[number], sizes(views)[number]
    if around.anchor == "tile":
        step = tile_step(around, fine.input.side, shown, wider)
        return lay_at(fine, around, tile_starts(around, step, first, shown, wider))
    middle = (first + np.minimum(fine.windows[:, 1:] + fine.input.side, shown)) / 2
    places = np.floor(middle * (wider / shown) - around.side / 2 + 0.5).astype(np.int64)
    return Layer(around, size, views, np.column_stack([number, places]), fine.cell_of, np.arange(len(number)))


def lay_at(fine: Layer, around: InputSpec, starts: Indices) -> Layer:
    """The windows of a further input where the surroundings of each fine window begin at `starts` `[n, 2]`, in pixels
    of its view, moved into the image where that is large enough; equal ones are one.

    A smaller image begins at the window's start, mirrored at its end. They are numbered as fine windows need them, and
    each is a cell of its own.
    """
    number = fine.windows[:, 0]
    size, views = widen_views(fine, around.factor)
    last = sizes(views)[number] - around.side
    starts = np.clip(starts, 0, np.maximum(last, 0))
    mirrored = np.array([view.flip for view in views])[number]
    starts[mirrored, 0] = np.minimum(starts[mirrored, 0], last[mirrored, 0])
    found, needed, of = np.unique(np.column_stack([number, starts]), axis=0, return_index=True, return_inverse=True)
    order = np.argsort(needed)
    numbers = np.arange(len(order))
    rank = np.empty_like(numbers)
    rank[order] = numbers
    return Layer(around, size, views, found[order], numbers, rank[of.reshape(-1)])


def tile_step(around: InputSpec, fine_side: int, shown: Indices, wider: Indices) -> Indices:
    """How far apart shared surroundings begin, in their own pixels, so that each fine window lies within one; the views
    are `shown` and `wider` pixels wide and high.

    It is `lattice_step`, but where rounded sizes of a tiny image make a fine window larger.
    """
    most = lattice_step(around.side, fine_side, around.factor)
    assert most >= 1
    extent = -(-fine_side * wider // shown)
    step: Indices = np.clip(around.side - extent, 1, most)
    return step


def lattice_step(side: int, fine_side: int, factor: float) -> int:
    """How far apart surroundings of `side` pixels begin that fine windows share: a pixel is left for rounding."""
    return side - math.ceil(fine_side / factor) - 1


def tile_starts(around: InputSpec, step: Indices, first: Indices, shown: Indices, wider: Indices) -> Indices:
    """`[n, 2]` where the shared surroundings of windows begin whose first pixel of the image is `first`."""
    tile = first * wider // (shown * step)  # in whole numbers, lest a window begins before its tile by rounding
    return np.minimum(tile * step, np.maximum(wider - around.side, 0))


def widen_views(fine: Layer, factor: float) -> tuple[Size, tuple[View, ...]]:
    """The grid whose pixels are `factor` times as large, and its views like those of the fine windows."""
    size = shrink(fine.size, factor)
    scaled = [scale_size(size, view.scale) for view in fine.views]
    return size, tuple(
        replace(view, width=width, height=height, xs=(), ys=())
        for view, (width, height) in zip(fine.views, scaled, strict=True)
    )


def sizes(views: Sequence[View]) -> Indices:
    """`[n, 2]` width and height of each view."""
    return np.array([[view.width, view.height] for view in views])


def grid_boxes(size: Size, views: Sequence[View], window: int, windows: Indices) -> Indices:
    """`[n, 4]` left, top, right, bottom: the grid pixels that each window is interpolated from."""
    scaled = sizes(views)[windows[:, 0]]
    ratio = np.array(size) / scaled
    first = np.maximum(windows[:, 1:], 0)
    last = np.minimum(windows[:, 1:] + window, scaled) - 1
    low = np.floor((first + 0.5) * ratio - 0.5).astype(np.int64)
    high = np.floor((last + 0.5) * ratio - 0.5).astype(np.int64) + 2
    return np.concatenate([np.maximum(low, 0), np.minimum(high, np.array(size))], axis=1)
