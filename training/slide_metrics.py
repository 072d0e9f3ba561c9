"""How well scores tell malign slides, or pixels, from benign ones: areas under ROC curves.

A score is evidence, such as log-odds; only its order counts, so slides may also have minus infinity. Slides are few
and ranked exactly; pixels are many and counted in bins. All is NaN where there is one label only: nothing can be told
apart.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glassrt.engine.errors import DatasetError
from glassrt.engine.maps.evidence import LIMIT

BIN = 1e-2  # of log-odds; two pixels nearer than that may count as tied
ROUNDS = 2000
SHARE = 0.95  # of the rounds that lie between the ends of an interval

Floats = NDArray[np.float64]


def roc_auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Share of the pairs of a malign and a benign slide whose scores are in that order; ties count half.

    `scores` and `labels` (true: malign) are `[n]`. NaN for one label only. Raises DatasetError for a score that is NaN.
    """
    malign, benign = part(scores, labels)
    return ordered_share(malign, benign)


def part(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """Scores of the malign and of the benign, each rising."""
    values, malign = np.asarray(scores, np.float64), np.asarray(labels, np.bool_)
    assert values.shape == malign.shape
    assert values.ndim == 1
    if np.isnan(values).any():
        raise DatasetError(
            f"the score of slide {int(np.isnan(values).argmax()) + 1} is no number: is the network sound?"
        )
    return np.sort(values[malign]), np.sort(values[~malign])


def ordered_share(malign: Floats, benign: Floats) -> float:
    """As `roc_auc`; `benign` rises. The Mann-Whitney statistic, by ranks."""
    if not malign.size or not benign.size:
        return float("nan")
    below, below_or_tied = (np.searchsorted(benign, malign, side).sum() for side in ("left", "right"))
    return float((below + below_or_tied) / (2 * malign.size * benign.size))


def bootstrap_auc(scores: ArrayLike, labels: ArrayLike, seed: int, rounds: int = ROUNDS) -> tuple[float, float]:
    """The ends of a 95 % percentile interval of `roc_auc`: between them lie as many of the rounds.

    Stratified: a round draws as many malign slides as there are, and as many benign ones, with replacement, so that
    each has both labels. (NaN, NaN) for one label only.
    """
    malign, benign = part(scores, labels)
    if not malign.size or not benign.size:
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    areas = [
        ordered_share(random.choice(malign, malign.size), np.sort(random.choice(benign, benign.size)))
        for _ in range(rounds)
    ]
    low, high = np.quantile(areas, ((1 - SHARE) / 2, (1 + SHARE) / 2)).tolist()
    return low, high


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """False alarm rates `[k]` and sensitivities `[k]`, from (0, 0) to (1, 1): a point for each score, falling.

    The area below, joined by straight lines, is `roc_auc`. Both are empty for one label only.
    """
    malign, benign = part(scores, labels)
    if not malign.size or not benign.size:
        return np.empty(0), np.empty(0)
    thresholds = np.unique(np.concatenate([malign, benign]))[::-1]
    rates = [1 - np.searchsorted(each, thresholds, "left") / each.size for each in (benign, malign)]
    false_alarms, sensitivities = (np.concatenate([[0.0], rate]) for rate in rates)
    return false_alarms, sensitivities


class OddsHistogram:
    """Counts the log-odds of malign and of benign pixels in bins of `BIN`; memory does not grow with pixels."""

    def __init__(self) -> None:
        self.malign, self.benign = np.zeros((2, round(2 * LIMIT / BIN) + 1), np.int64)

    def add(self, odds: NDArray[np.floating], malign: NDArray[np.bool_]) -> None:
        """Add pixels, `odds` from -LIMIT to LIMIT and whether each is `malign`, of one shape."""
        bins = np.rint((odds.astype(np.float64) + LIMIT) / BIN).astype(np.int64)
        for counts, chosen in ((self.malign, bins[malign]), (self.benign, bins[~malign])):
            if chosen.size:
                first = int(chosen.min())
                found = np.bincount(chosen - first)
                counts[first : first + len(found)] += found

    def auc(self) -> float:
        """`histogram_auc` of what was added."""
        return histogram_auc(self.malign, self.benign)


def histogram_auc(malign: Sequence[int] | NDArray[np.int64], benign: Sequence[int] | NDArray[np.int64]) -> float:
    """`roc_auc` of scores that were counted in the same bins, by rising score; those of one bin are ties."""
    above, below = np.asarray(malign, np.float64), np.asarray(benign, np.float64)
    pairs = above.sum() * below.sum()
    if not pairs:
        return float("nan")
    return float((above * (below.cumsum() - below / 2)).sum() / pairs)
