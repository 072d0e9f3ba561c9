"""Pure geometry of the multi-scale test: scales, windows, the cells they are read by, and map sampling.

Source: OEEM (MICCAI 2022) section 2.3. Frames: `grid` is the slide at the bundle's mpp; `scaled` is the grid
resized by one scale; `map` is the result. All use half-pixel centres.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]
Indices = NDArray[np.int64]

SUMMED_PIXELS = 4_000_000  # of a tissue mask summed at a time
CELL_STRIDES = 4  # a cell's side in strides: 4 reads 13 % more pixels than it hands on, at 3.5 MB a region


@dataclass(frozen=True)
class View:
    """The grid at one scale, mirrored or not, with the places of its windows.

    `xs` and `ys` are first pixels of windows in the unmirrored scaled image. Where the image is smaller than
    a window, it begins at the window's start; a mirrored view's window then begins left of the image.
    """

    scale: float
    flip: bool
    width: int
    height: int
    xs: tuple[int, ...]
    ys: tuple[int, ...]


@dataclass(frozen=True)
class Box:
    """Pixels `left`...`right`, `top`...`bottom` of the frame that the context names."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> Size:
        return self.right - self.left, self.bottom - self.top


@dataclass(frozen=True)
class Part:
    """The windows of one cell and one view: `box` is what they cover of the scaled image."""

    cell: int
    view: int
    box: Box


@dataclass(frozen=True)
class Plan:
    """Every window that a slide needs, in reading order.

    `windows` is `[n, 3]`: view, x, y in scaled pixels. Windows that begin close together form a cell, whose
    region is read once. `cell_of` gives each window's cell and rises. `skipped` counts the windows left out
    because they hold no tissue.
    """

    size: Size
    window: int
    views: tuple[View, ...]
    windows: Indices
    cell_of: Indices
    skipped: int

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
        end = np.minimum(self.windows[:, 1:] + self.window, view_sizes[self.windows[:, 0]])
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
        boxes = grid_boxes(self.size, self.views, self.window, self.windows)
        starts = np.flatnonzero(np.diff(self.cell_of, prepend=-1))
        united = unite(boxes[:, :2], boxes[:, 2:], starts)
        return dict(zip(self.cell_of[starts].tolist(), united, strict=True))


def unite(first: Indices, end: Indices, starts: Indices) -> list[Box]:
    """The box around each run of boxes; runs begin at `starts`."""
    if not len(starts):
        return []
    low, high = np.minimum.reduceat(first, starts), np.maximum.reduceat(end, starts)
    return [Box(*corners) for corners in np.concatenate([low, high], axis=1).tolist()]


def round_half_up(value: float) -> int:
    """The nearest whole number, halves up."""
    return math.floor(value + 0.5)


def window_starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    """First pixels of the windows along one axis; the last one is shifted back to end at the border."""
    if length <= window:
        return (0,)
    return (*range(0, length - window, stride), length - window)


def lay_views(size: Size, scales: Sequence[float], flips: bool, window: int, stride: int) -> tuple[View, ...]:
    """One view a scale, or two with flips. A mirrored view has the windows of the mirrored image."""
    views = []
    for scale in scales:
        width, height = (max(1, round_half_up(scale * side)) for side in size)
        xs, ys = window_starts(width, window, stride), window_starts(height, window, stride)
        views.append(View(scale, False, width, height, xs, ys))
        if flips:
            mirrored = tuple(width - window - x for x in reversed(xs))
            views.append(View(scale, True, width, height, mirrored, ys))
    return tuple(views)


def plan(
    size: Size,
    scales: Sequence[float],
    flips: bool,
    window: int,
    stride: int,
    tissue: NDArray[np.bool_] | None = None,
) -> Plan:
    """The windows of a grid of `size` (width, height), without those that hold no tissue.

    `tissue` is a mask over the whole grid at any resolution; None keeps every window.
    """
    views = lay_views(size, scales, flips, window, stride)
    tables = []
    for index, view in enumerate(views):
        ys, xs = np.meshgrid(view.ys, view.xs, indexing="ij")
        tables.append(np.column_stack([np.full(xs.size, index), xs.ravel(), ys.ravel()]))
    windows = np.concatenate(tables).astype(np.int64)
    boxes = grid_boxes(size, views, window, windows)
    skipped = 0
    if tissue is not None:
        kept = holds_tissue(tissue, boxes / np.array([*size, *size]))
        skipped = int(len(kept) - kept.sum())
        windows, boxes = windows[kept], boxes[kept]
    side = CELL_STRIDES * stride
    cells = boxes[:, :2] // side
    cell_of = cells[:, 1] * (size[0] // side + 1) + cells[:, 0]
    order = np.lexsort((windows[:, 1], windows[:, 2], windows[:, 0], cell_of))
    return Plan(size, window, views, windows[order], cell_of[order], skipped)


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


def holds_tissue(tissue: NDArray[np.bool_], boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each box (left, top, right, bottom as fractions of the whole) touches a pixel of the mask."""
    height, width = tissue.shape
    extent = np.array([width, height])
    low = np.minimum(np.floor(boxes[:, :2] * extent).astype(np.int64), extent - 1)
    high = np.maximum(np.ceil(boxes[:, 2:] * extent).astype(np.int64), low + 1)
    touched = np.zeros(len(boxes), np.bool_)
    for first, end in bands(height, max(1, SUMMED_PIXELS // width)):
        sums = np.zeros((end - first + 1, width + 1), np.int32)
        np.cumsum(tissue[first:end], axis=0, dtype=np.int32, out=sums[1:, 1:])
        np.cumsum(sums, axis=1, out=sums)
        reach = np.flatnonzero((low[:, 1] < end) & (high[:, 1] > first))
        (left, top), (right, bottom) = low[reach].T, high[reach].T
        top, bottom = np.maximum(top - first, 0), np.minimum(bottom, end) - first
        touched[reach] |= sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left] > 0
    return touched


@dataclass(frozen=True)
class Sampling:
    """Where along one axis the map's pixels lie among a view's pixels: bilinear, clamped at the border.

    `lower` and `upper` are the two neighbours of each map pixel, `weight` the share of the upper one.
    """

    lower: Indices
    upper: Indices
    weight: NDArray[np.float32]

    @staticmethod
    def between(map_length: int, scaled_length: int) -> "Sampling":
        """The sampling of `scaled_length` pixels by a map of `map_length`."""
        position = (np.arange(map_length) + 0.5) * (scaled_length / map_length) - 0.5
        position = np.clip(position, 0, scaled_length - 1)
        lower = np.floor(position).astype(np.int64)
        upper = np.minimum(lower + 1, scaled_length - 1)
        return Sampling(lower, upper, (position - lower).astype(np.float32))

    def map_range(self, start: Indices, end: Indices) -> tuple[Indices, Indices]:
        """First and end map pixel that the view's pixels `start`...`end` have a share in."""
        return np.searchsorted(self.upper, start), np.searchsorted(self.lower, end)


def bands(length: int, height: int) -> Iterator[tuple[int, int]]:
    """(top, bottom) of consecutive bands of at most `height` rows."""
    for top in range(0, length, height):
        yield top, min(length, top + height)
