"""Every window that a slide needs, and the cells that they are read by.

Frames: `grid` is the slide at the bundle's mpp; `scaled` is the grid resized by one scale; `map` is the result. All use
half-pixel centres.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

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

    Above 1 it is the fine window's surroundings, around the middle of what that shows of the image.
    """

    name: str
    side: int
    factor: float = 1.0


@dataclass(frozen=True)
class Layer:
    """The windows of one input on the grid that is `input.factor` times coarser, of `size` pixels.

    `windows` is `[n, 3]`: view, x, y in scaled pixels. Windows that begin close together form a cell, whose region is
    read once; `cell_of` gives each window's cell and rises.
    """

    input: InputSpec
    size: Size
    views: tuple[View, ...]
    windows: Indices
    cell_of: Indices

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
        view_sizes = np.array([[view.width, view.height] for view in self.views])
        first = np.maximum(self.windows[:, 1:], 0)
        end = np.minimum(self.windows[:, 1:] + self.input.side, view_sizes[self.windows[:, 0]])
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
    side = CELL_STRIDES * stride
    cells = boxes[:, :2] // side
    cell_of = cells[:, 1] * (size[0] // side + 1) + cells[:, 0]
    order = np.lexsort((windows[:, 1], windows[:, 2], windows[:, 0], cell_of))
    first = Layer(fine, size, views, windows[order], cell_of[order])
    return Plan((first, *(lay_around(first, each) for each in others)), skipped)


def lay_around(fine: Layer, around: InputSpec) -> Layer:
    """The windows of a further input, each around the middle of what the fine one shows of the image."""
    size = shrink(fine.size, around.factor)
    views = tuple(
        replace(view, width=scaled[0], height=scaled[1], xs=(), ys=())
        for view in fine.views
        for scaled in [scale_size(size, view.scale)]
    )
    number, first = fine.windows[:, 0], fine.windows[:, 1:]
    shown = np.array([[view.width, view.height] for view in fine.views])[number]
    middle = (np.maximum(first, 0) + np.minimum(first + fine.input.side, shown)) / 2
    wider = np.array([[view.width, view.height] for view in views])[number]
    places = np.floor(middle * (wider / shown) - around.side / 2 + 0.5).astype(np.int64)
    return Layer(around, size, views, np.column_stack([number, places]), fine.cell_of)


def grid_boxes(size: Size, views: Sequence[View], window: int, windows: Indices) -> Indices:
    """`[n, 4]` left, top, right, bottom: the grid pixels that each window is interpolated from."""
    view_sizes = np.array([[view.width, view.height] for view in views])
    scaled = view_sizes[windows[:, 0]]
    ratio = np.array(size) / scaled
    first = np.maximum(windows[:, 1:], 0)
    last = np.minimum(windows[:, 1:] + window, scaled) - 1
    low = np.floor((first + 0.5) * ratio - 0.5).astype(np.int64)
    high = np.floor((last + 0.5) * ratio - 0.5).astype(np.int64) + 2
    return np.concatenate([np.maximum(low, 0), np.minimum(high, np.array(size))], axis=1)
