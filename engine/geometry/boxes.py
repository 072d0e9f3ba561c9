"""Rectangles of pixels, and runs of rows."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]
Indices = NDArray[np.int64]


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


def unite(first: Indices, end: Indices, starts: Indices) -> list[Box]:
    """The box around each run of boxes; runs begin at `starts`."""
    if not len(starts):
        return []
    low, high = np.minimum.reduceat(first, starts), np.maximum.reduceat(end, starts)
    return [Box(*corners) for corners in np.concatenate([low, high], axis=1).tolist()]


def bands(length: int, height: int) -> Iterator[tuple[int, int]]:
    """(top, bottom) of consecutive bands of at most `height` rows."""
    for top in range(0, length, height):
        yield top, min(length, top + height)
