"""Areas under ROC curves against pairs counted one by one."""

import itertools
import math

import numpy as np
import pytest

from glassrt.engine.errors import DatasetError
from glassrt.engine.maps.evidence import LIMIT
from glassrt.training.slide_metrics import BIN, OddsHistogram, bootstrap_auc, histogram_auc, roc_auc, roc_curve

INF = math.inf


@pytest.mark.parametrize(
    ("malign", "benign", "area"),
    [
        ([3, 4], [1, 2], 1),
        ([1, 2], [3, 4], 0),
        ([1, 3], [2, 4], 1 / 4),  # of the four pairs 3 > 2 alone
        ([2], [2], 1 / 2),
        ([1, 2, 2], [2, 0], (1 + 1.5 + 1.5) / 6),  # 1 > 0; 2 > 0 and half of 2 = 2, twice
        ([5, -INF], [-INF, 1], (2 + 0.5) / 4),
        ([104, 104, 104], [104, 104], 1 / 2),
        ([1.0], [], math.nan),
        ([], [1.0, 2.0], math.nan),
        ([], [], math.nan),
    ],
)
def test_the_area_is_the_share_of_pairs_in_order(malign: list[float], benign: list[float], area: float) -> None:
    scores, labels = [*malign, *benign], [True] * len(malign) + [False] * len(benign)
    for order in itertools.islice(itertools.permutations(range(len(scores))), 6):
        shuffled = [scores[each] for each in order], [labels[each] for each in order]
        assert roc_auc(*shuffled) == pytest.approx(area, nan_ok=True)
        x, y = roc_curve(*shuffled)
        if math.isnan(area):
            assert x.size == y.size == 0
        else:
            assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
            assert np.trapezoid(y, x) == pytest.approx(area)


def test_the_curve_has_a_point_for_each_score() -> None:
    x, y = roc_curve([3, 1, 2, 1], [True, True, False, False])
    assert x.tolist() == [0, 0, 0.5, 1]
    assert y.tolist() == [0, 0.5, 0.5, 1]


def test_a_score_that_is_no_number_is_no_rank() -> None:
    with pytest.raises(DatasetError, match="score of slide 2 is no number"):
        roc_auc([1, math.nan], [True, False])


def test_the_interval_holds_the_share_of_rounds_that_it_says() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2 == 0
    scores = random.normal(labels * 1.0, 1)
    low, high = bootstrap_auc(scores, labels, 7)
    assert 0 < low < roc_auc(scores, labels) < high < 1
    # The standard error of such an area, Hanley and McNeil's, is .06: four of them make the interval.
    assert 0.16 < high - low < 0.32
    assert bootstrap_auc(scores, labels, 7) == (low, high)
    assert bootstrap_auc(scores, labels, 8) != (low, high)
    assert bootstrap_auc([2, 2, 1], [True, True, False], 1, rounds=50) == (1, 1)
    assert all(math.isnan(end) for end in bootstrap_auc([1, 2], [True, True], 1))


def test_each_round_draws_both_labels() -> None:
    """One malign slide among many would be missing in a third of plain draws."""
    scores = np.r_[5.0, np.arange(10)]
    low, high = bootstrap_auc(scores, np.arange(11) == 0, 3, rounds=200)
    assert 0 < low < high < 1


@pytest.mark.parametrize(
    ("malign", "benign", "area"),
    [
        ([0, 1], [1, 0], 1),
        ([1, 0], [0, 1], 0),
        ([3, 1], [2, 2], (3 * 1 + 1 * 2 + 1 * 1) / 16),  # 3 x 2 ties below, 1 above 2, 1 x 2 ties above
        ([0, 0], [5, 1], math.nan),
    ],
)
def test_counts_in_bins_have_the_area_of_their_pixels(malign: list[int], benign: list[int], area: float) -> None:
    assert histogram_auc(malign, benign) == pytest.approx(area, nan_ok=True)


@pytest.mark.parametrize("spread", [0.5, 3, 400])
def test_pixels_are_ranked_but_for_a_bin(spread: float) -> None:
    random = np.random.default_rng(1)
    malign = random.random((90, 70)) < 0.2
    odds = np.clip(random.normal(malign * spread / 2, spread), -LIMIT, LIMIT).astype(np.float32)
    histogram = OddsHistogram()
    for rows in (slice(0, 40), slice(40, 41), slice(41, 90)):
        histogram.add(odds[rows], malign[rows])
    assert (histogram.malign.sum(), histogram.benign.sum()) == (malign.sum(), (~malign).sum())
    assert histogram.auc() == pytest.approx(roc_auc(np.rint(odds.ravel() / BIN), malign.ravel()), abs=1e-4)
    assert histogram.auc() == pytest.approx(roc_auc(odds.ravel(), malign.ravel()), abs=BIN / spread)
    histogram.add(np.empty((0, 3), np.float32), np.empty((0, 3), np.bool_))
    assert math.isnan(OddsHistogram().auc())
