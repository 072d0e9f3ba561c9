"""What a slide's map says of the whole slide: how strongly its pixels speak for one class, in one pass.

A slide is suspected by its most suspicious places (Pinchaud, "Weakly Supervised Training of Pixel Resolution
Segmentation Models on Whole Slide Images", section 3). Evidence is log-odds, not probability: in float32 the largest
probability of most slides is 1, and ties rank nothing.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.coverage import cover
from glassrt.engine.maps.canvas import Tile

LIMIT = 104.0  # log-odds beyond which float32 probabilities are 0
BIN = 1e-3  # of log-odds: more than the pooled scores are off by
STEP = 2.0**-14  # of log-odds that are summed: whole numbers of it have sums that are exact, in any order
PERCENTILE = 99

Floats = NDArray[np.float32]


class SlideScores(NamedTuple):
    """Log-odds of a class over a slide's tissue: of its pixel with the most, the 99th percentile, and the mean of
    those `eta` percent that have the most.
    """

    maximum: float
    percentile_99: float
    top: float


class Evidence:
    """Takes a canvas's tiles and pools the log-odds of class `number` over the tissue.

    `tissue` is `[H, W]` in the slide's proportions, `size` the map's (width, height); `eta` is in percent. Memory is a
    histogram, whatever the slide's size; the maximum is exact, the others are off by less than `BIN`. A pixel of
    the map counts where any of it is tissue.
    """

    def __init__(self, number: int, eta: float, tissue: NDArray[np.bool_], size: tuple[int, int]) -> None:
        self._number, self._eta, self._tissue, self._size = number, eta, tissue, size
        bins = round(2 * LIMIT / BIN) + 1
        self._counts, self._sums = np.zeros(bins, np.int64), np.zeros(bins)
        self._maximum = -np.inf

    def place(self, tile: Tile) -> None:
        """Add one tile; in any order, on which nothing depends."""
        height, width = tile.analysed.shape
        share = cover(self._tissue, self._size, tile.left, tile.top, (width, height))
        odds = log_odds(tile.probabilities, self._number)[tile.analysed & (share > 0)].astype(np.float64)
        if not odds.size:
            return
        bins = np.rint((odds + LIMIT) / BIN).astype(np.int64)
        first, end = int(bins.min()), int(bins.max()) + 1
        self._counts[first:end] += np.bincount(bins - first)
        self._sums[first:end] += np.bincount(bins - first, weights=np.rint(odds / STEP) * STEP)
        self._maximum = max(self._maximum, float(odds.max()))

    def scores(self) -> SlideScores | None:
        """What was pooled; None where no tissue was analysed."""
        total = int(self._counts.sum())
        if not total:
            return None
        return SlideScores(
            self._maximum, self._percentile(PERCENTILE), self._top(max(1, round(self._eta / 100 * total)))
        )

    def _percentile(self, percent: float) -> float:
        """Linear between the two nearest ranks, as NumPy's."""
        ends = self._counts.cumsum()
        rank = percent / 100 * (int(ends[-1]) - 1)
        lower, upper = (self._ranked(int(each), ends) for each in (math.floor(rank), math.ceil(rank)))
        return lower + (upper - lower) * (rank % 1)

    def _ranked(self, rank: int, ends: NDArray[np.int64]) -> float:
        place = np.searchsorted(ends, rank, "right")
        return float(self._sums[place] / self._counts[place])

    def _top(self, count: int) -> float:
        """Mean of the `count` largest; those of the last bin stand for its mean."""
        above = self._counts[::-1].cumsum()
        last = int(np.searchsorted(above, count))
        counts, sums = self._counts[::-1], self._sums[::-1]
        rest = count - (above[last] - counts[last])
        return float((sums[:last].sum() + rest * sums[last] / counts[last]) / count)


def log_odds(probabilities: Floats, number: int) -> Floats:
    """`[h, w]`: log of the class's probability over that of all others together, within `LIMIT`.

    `probabilities` is `[C, h, w]` of a softmax, in which the small ones are exact: 1 - p would not be.
    """
    others = np.delete(probabilities, number, axis=0).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = np.log(probabilities[number]) - np.log(others)
    clipped: Floats = np.clip(odds, -LIMIT, LIMIT)
    return clipped
