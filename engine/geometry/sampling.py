"""Where the pixels of a map lie among those of a scaled image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import Indices


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
