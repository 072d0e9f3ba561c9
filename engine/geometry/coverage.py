"""What a mask covers: how much of each pixel of a map of the same slide, and which boxes of it at all."""

import math

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import bands

SUMMED_PIXELS = 4_000_000  # of a mask summed at a time

Floats = NDArray[np.float64]


def cover(mask: NDArray[np.bool_], map_size: tuple[int, int], left: int, top: int, size: tuple[int, int]) -> Floats:
    """Shares `[h, w]`, 0 to 1, of the map's pixels from (left, top), `size` (width, height) of them.

    Exact: the shares of the whole map have the mean of the mask.
    """
    (width, height), (map_width, map_height) = size, map_size
    down, first, end = edges(top, height, map_height, mask.shape[0])
    across, start, stop = edges(left, width, map_width, mask.shape[1])
    part = mask[first:end, start:stop].astype(np.float64)
    return average(average(part, down).T, across).T.clip(0, 1)


def edges(start: int, count: int, map_length: int, length: int) -> tuple[Floats, int, int]:
    """The borders of map pixels along one axis in pixels of a mask, from the first that they touch to the end."""
    places = np.arange(start, start + count + 1) * length / map_length
    first, end = math.floor(places[0]), min(length, math.ceil(places[-1]))
    return np.minimum(places, length) - first, first, end


def average(values: Floats, places: Floats) -> Floats:
    """Means of the rows of `values` between consecutive places."""
    sums = np.zeros((len(values) + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=sums[1:])
    lower = np.minimum(places.astype(np.int64), len(values) - 1)
    weight = (places - lower)[:, None]
    at = sums[lower] * (1 - weight) + sums[lower + 1] * weight
    means: Floats = np.diff(at, axis=0) / np.diff(places)[:, None]
    return means


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
