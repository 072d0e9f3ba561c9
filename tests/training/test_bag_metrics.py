"""Scores of bags and instances against values worked out by hand."""

import math

import numpy as np
import pytest

from glassrt.engine.errors import DatasetError
from glassrt.training import bag_metrics
from glassrt.training.bag_metrics import Scores

NAN = math.nan


def logits(*probabilities: float) -> list[float]:
    return [math.log(each / (1 - each)) for each in probabilities]


@pytest.mark.parametrize(
    ("probabilities", "labels", "threshold", "accuracy", "f1", "auroc"),
    [
        ([0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0], 0.5, 1, 1, 1),
        ([0.9, 0.8, 0.3, 0.1], [0, 0, 1, 1], 0.5, 0, 0, 0),
        # predicted: the first three; TP 2, FP 1, FN 0, and of the pairs only 0.6 above 0.7 is out of order
        ([0.9, 0.7, 0.6, 0.2], [1, 0, 1, 0], 0.5, 3 / 4, 4 / 5, 3 / 4),
        ([0.9, 0.7, 0.6, 0.2], [1, 0, 1, 0], 0.8, 3 / 4, 2 / 3, 3 / 4),
        ([0.9, 0.7, 0.6, 0.2], [1, 0, 1, 0], 0.95, 1 / 2, 0, 3 / 4),
        ([0.9, 0.7, 0.6, 0.2], [1, 0, 1, 0], NAN, NAN, NAN, 3 / 4),
        ([0.5, 0.2], [1, 0], 0.5, 1, 1, 1),  # at the threshold is positive
        ([0.4, 0.4, 0.4], [1, 0, 0], 0.5, 2 / 3, 0, 1 / 2),
        ([0.4, 0.3], [0, 0], 0.5, 1, NAN, NAN),
        ([0.6, 0.3], [0, 0], 0.5, 1 / 2, 0, NAN),
        ([0.6, 0.3], [1, 1], 0.5, 1 / 2, 2 / 3, NAN),
        ([], [], 0.5, NAN, NAN, NAN),
    ],
)
def test_scores_at_a_threshold(
    probabilities: list[float], labels: list[int], threshold: float, accuracy: float, f1: float, auroc: float
) -> None:
    scores = bag_metrics.score(logits(*probabilities), labels, threshold)
    error = bag_metrics.calibration_error(probabilities, labels)
    assert scores == pytest.approx(Scores(accuracy, f1, auroc, error, threshold), nan_ok=True)


def test_certain_bags_are_still_ranked() -> None:
    """Both probabilities are 1 in float64."""
    scores = bag_metrics.score([800.0, 60.0, -900.0], [1, 0, 0])
    assert scores[:3] == pytest.approx((2 / 3, 2 / 3, 1))
    assert scores.calibration_error == pytest.approx(1 / 3)


def test_a_logit_that_is_no_number_is_refused() -> None:
    with pytest.raises(DatasetError, match="is no number"):
        bag_metrics.score([0.0, NAN], [0, 1])


@pytest.mark.parametrize(
    ("probabilities", "labels", "threshold", "f1"),
    [
        ([0.1, 0.2, 0.6, 0.8], [0, 0, 1, 1], 0.4, 1),
        ([0.1, 0.6, 0.7, 0.8], [0, 0, 1, 1], 0.65, 1),
        # from 0.2 on: TP 2, FP 1 give 4 / 5; from 0.4 on 2 / 4; from 0.8 on 2 / 3; from 0.1 on 4 / 6
        ([0.1, 0.2, 0.4, 0.8], [0, 1, 0, 1], 0.15, 4 / 5),
        ([0.2, 0.3, 0.9], [1, 0, 0], 0.0, 1 / 2),
        # as good from 0.3 on (TP 2, FP 2) as from 0.9 on (TP 1): the nearer to 0.5
        ([0.3, 0.7, 0.7, 0.9], [1, 0, 0, 1], 0.8, 2 / 3),
        ([0.5, 0.5], [0, 1], 0.0, 2 / 3),
    ],
)
def test_the_threshold_is_where_f1_is_highest_on_validation_bags(
    probabilities: list[float], labels: list[int], threshold: float, f1: float
) -> None:
    chosen = bag_metrics.choose_threshold(logits(*probabilities), labels)
    assert chosen == pytest.approx(threshold)
    assert bag_metrics.score(logits(*probabilities), labels, chosen).f1 == pytest.approx(f1)


def test_no_other_threshold_has_a_higher_f1() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        labels = random.integers(0, 2, 30)
        values = np.round(random.normal(labels, 1.5), 1)  # with ties
        best = bag_metrics.score(values, labels, bag_metrics.choose_threshold(values, labels)).f1
        assert best == pytest.approx(max(bag_metrics.score(values, labels, each).f1 for each in np.linspace(0, 1, 999)))


def test_a_threshold_lies_above_the_lower_of_two_probabilities_that_touch() -> None:
    close = [0.75, float(np.nextafter(0.75, 1))]
    values = [math.log(each) - math.log1p(-each) for each in close]
    low, high = bag_metrics.probabilities(values)
    assert low < high
    chosen = bag_metrics.choose_threshold(values, [0, 1])
    assert low < chosen <= high


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], []])
def test_one_label_has_neither_threshold_nor_temperature(labels: list[int]) -> None:
    values = [0.5, -0.5][: len(labels)]
    assert math.isnan(bag_metrics.choose_threshold(values, labels))
    assert math.isnan(bag_metrics.fit_temperature(values, labels))


@pytest.mark.parametrize(
    ("probabilities", "labels", "error"),
    [
        ([1.0, 0.0], [1, 0], 0),
        ([1.0, 0.0], [0, 1], 1),
        ([0.75] * 4, [1, 1, 1, 0], 0),
        ([0.75] * 4, [1, 0, 0, 0], 0.5),
        # bins (0.2, 0.267] and (0.8, 0.867]: |0 - 0.25| of two things, |0.5 - 0.83| of two
        ([0.24, 0.26, 0.82, 0.84], [0, 0, 0, 1], (2 * 0.25 + 2 * 0.33) / 4),
        # one bin, in which errors cancel; a bin apart they do not
        ([0.52, 0.52], [1, 0], 0.02),
        ([0.46, 0.54], [1, 0], 0.54),
        # too sure of either label: confidence in the likelier would be 0.8 at an accuracy of 0.8 and hide it
        ([0.8] * 5 + [0.2] * 5, [1, 1, 1, 0, 0] + [0] * 5, 0.2),
        # an upper end is of its bin: 1/3 with 0.3, apart from 0.34
        ([1 / 3, 0.3], [1, 0], abs(1 - 1 / 3 - 0.3) / 2),
        ([1 / 3, 0.34], [1, 0], (1 - 1 / 3 + 0.34) / 2),
        ([], [], NAN),
    ],
)
def test_calibration_is_the_gap_between_probability_and_share(
    probabilities: list[float], labels: list[int], error: float
) -> None:
    assert bag_metrics.calibration_error(probabilities, labels) == pytest.approx(error, nan_ok=True)


@pytest.mark.parametrize("count", [1, 5, 100])
@pytest.mark.parametrize("size", [0.3, 8.0])
def test_bags_told_apart_get_the_probabilities_of_platt(count: int, size: float) -> None:
    """sigmoid(size / T) = (n + 1) / (n + 2), so T = size / log(n + 1)."""
    temperature = bag_metrics.fit_temperature([size] * count + [-size] * count, [1] * count + [0] * count)
    assert temperature == pytest.approx(size / math.log(count + 1), rel=1e-4)


def test_a_network_right_three_times_of_four_is_that_sure_after_scaling() -> None:
    count, target = 400, 401 / 402
    labels = [1] * count + [0] * count
    values = [5.0 if (label == 1) == (number % 4 > 0) else -5.0 for number, label in enumerate(labels)]
    temperature = bag_metrics.fit_temperature(values, labels)
    right = 0.75 * target + 0.25 * (1 - target)
    assert temperature == pytest.approx(5 / math.log(right / (1 - right)), rel=1e-4)
    before, after = (bag_metrics.score(np.array(values) / each, labels) for each in (1, temperature))
    assert before.calibration_error == pytest.approx(1 / (1 + math.exp(-5)) - 0.75)
    assert after.calibration_error < 0.002
    assert (after.accuracy, after.auroc) == (before.accuracy, before.auroc)


def test_a_network_that_points_the_wrong_way_gets_no_confidence() -> None:
    assert bag_metrics.fit_temperature([-3.0, 3.0], [1, 0]) == pytest.approx(100, rel=1e-3)


@pytest.mark.parametrize(
    ("attention", "share"),
    [
        ([0.25] * 4, 1),
        ([0, 0, 1, 0], 1 / 4),
        ([0.5, 0.5, 0, 0], 1 / 2),
        ([3, 3, 0, 0, 0, 0], 1 / 3),
        ([0.5, 0.25, 0.25], 2**1.5 / 3),  # an entropy of 1.5 bits
        ([1], 1),
        ([], NAN),
        ([0, 0], NAN),
    ],
)
def test_attention_has_an_effective_share_of_the_instances(attention: list[float], share: float) -> None:
    assert bag_metrics.effective_share(attention) == pytest.approx(share, nan_ok=True)


@pytest.mark.parametrize(
    ("attentions", "labels", "auroc"),
    [
        ([[0.6, 0.3, 0.1]], [[1, 0, 0]], 1),
        ([[0.6, 0.3, 0.1]], [[0, 1, 0]], 1 / 2),
        # a small bag's least attention is above a large bag's most: within bags the order is right
        ([[0.9, 0.1], [0.04, 0.03, 0.02]], [[1, 0], [1, 1, 0]], 1),
        ([[0.6, 0.4], [0.6, 0.4], [0.5, 0.5]], [[1, 0], [0, 1], [1, 0]], 1 / 2),
        ([[0.6, 0.4], [1.0]], [[1, 0], [1]], 1),  # the second has no other instance
        ([[0.6, 0.4]], [[0, 0]], NAN),
        ([], [], NAN),
    ],
)
def test_attention_is_ranked_within_bags(attentions: list[list[float]], labels: list[list[int]], auroc: float) -> None:
    assert bag_metrics.attention_auroc(attentions, labels) == pytest.approx(auroc, nan_ok=True)
