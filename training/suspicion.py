"""Where to look on a slide: places drawn in proportion to how much a map suspects them.

P(i, j) = Q(i, j)^alpha / sum of Q^alpha over the tissue (Pinchaud, beta-KL, section 3.1.2). Sums are kept by blocks, so
a place is found by looking at the blocks and then into one.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from glassrt.training.batches import Random, shuffled

BLOCK = 128  # pixels of a block's side

Suspicions = NDArray[np.float16]  # 0 to 1: of small ones the relative precision counts


class SuspicionMap:
    """A map `[H, W]` of probabilities to draw pixels from; those of 0 are never drawn, as what is no tissue should be.

    `alpha` sharpens: at 0 all others are drawn alike. Memory is the map's own and a sum a block.
    """

    def __init__(self, suspicions: Suspicions, alpha: float) -> None:
        self._map, self._alpha = suspicions, alpha
        height, width = suspicions.shape
        self._sums = np.zeros((-(-height // BLOCK), -(-width // BLOCK)))
        self._masses = np.zeros_like(self._sums)
        for row, column in np.ndindex(self._sums.shape):
            self._sums[row, column] = self._weigh(row, column).sum()
            self._masses[row, column] = self._block(row, column).sum(dtype=np.float64)

    @property
    def evidence(self) -> float:
        """The sum of all probabilities: a benign slide's is what it is wrongly suspected of."""
        return float(self._masses.sum())

    def draw(self, random: Random) -> tuple[int, int]:
        """A pixel (x, y). The map must not be empty."""
        row, column = np.divmod(choose(self._sums.ravel(), random), self._sums.shape[1])
        weights = self._weigh(int(row), int(column))
        y, x = np.divmod(choose(weights.ravel(), random), weights.shape[1])
        return int(column * BLOCK + x), int(row * BLOCK + y)

    def _block(self, row: int, column: int) -> Suspicions:
        return self._map[row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK]

    def _weigh(self, row: int, column: int) -> NDArray[np.float64]:
        """What each pixel of a block is drawn in proportion to."""
        block = self._block(row, column).astype(np.float64)
        return np.where(block > 0, block**self._alpha, 0.0)


def choose(weights: NDArray[np.float64], random: Random) -> int:
    """A place in proportion to its weight; none of weight 0."""
    ends = weights.cumsum()
    at = min(random.random() * ends[-1], np.nextafter(ends[-1], 0))  # a product may be rounded up to the last end
    return int(np.searchsorted(ends, at, side="right"))


def choose_slide(number: int, malign: int, benign: Sequence[float], seed: int, random: Random) -> tuple[bool, int]:
    """Which slide the `number`-th patch is of: whether a malign one, and its number among its kind.

    Both kinds come by turns. Malign slides, and half of the time benign ones, come each once a round; the other half
    benign slides come in proportion to their `benign` evidence, which is all false. So a slide is never left out of
    eight times as many patches in a row as its kind has slides.
    """
    turn, is_benign = divmod(number, 2)
    if not is_benign:
        return True, shuffled(turn, malign, seed)
    round_turn, by_evidence = divmod(turn, 2)
    if by_evidence and any(benign):
        return False, choose(np.array(benign, np.float64), random)
    return False, shuffled(round_turn, len(benign), seed + 1)
