"""The class of every pixel, kept as outlines: of slides whose classes as pixels would fill the memory."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import Box, Size
from glassrt.engine.slides.tissue.outlines import fill

Ring = NDArray[np.float64]


class OutlineTruth:
    """Outlines on a slide whose level 0 has `size` (width, height), a class each; what is in none has class 0.

    A ring `[n, 2]` is x and y of level 0, closed whether or not it ends where it begins; where it crosses itself, what
    lies inside an even number of times is outside. Later rings lie over earlier ones and may reach beyond the slide.
    """

    def __init__(self, size: Size, rings: Sequence[Ring], classes: Sequence[int]) -> None:
        self._size, self._rings, self._classes = size, rings, classes
        self._low = np.array([ring.min(0) for ring in rings]).reshape(-1, 2)
        self._high = np.array([ring.max(0) for ring in rings]).reshape(-1, 2)

    def cut(self, box: Box, grid: Size) -> NDArray[np.uint8]:
        """As `Truth.cut`. Takes time for the outlines that touch the box only, and memory for the box.

        All is computed in float64, in which no outline is too large.
        """
        scale, first = np.array(grid) / self._size, np.array((box.left, box.top))
        low, high = self._low * scale - first, self._high * scale - first
        width, height = box.size
        classes = np.zeros((height, width), np.uint8)
        for index in np.flatnonzero(((low < (width, height)) & (high > 0)).all(axis=1)).tolist():
            inside = np.zeros((height, width), np.uint8)
            fill(inside, [self._rings[index] * scale - first])
            classes[inside.view(np.bool_)] = self._classes[index]
        return classes
