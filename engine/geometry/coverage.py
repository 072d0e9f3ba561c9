"""How much of each pixel of a map a mask of the same slide covers, whatever the resolutions of both."""

import math

import numpy as np
from numpy.typing import NDArray

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
