"""How well bags, or instances, are told apart, how well probabilities are calibrated, and where attention goes.

Bags and instances are scored alike: `logits` `[n]` are log-odds of the positive label and `labels` `[n]` 0 or 1. What
is undefined is NaN.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glassrt.training.slide_metrics import roc_auc

BINS = 15  # of equal width
TEMPERATURES = (1e-2, 1e2)  # the least and the greatest that are looked at

Floats = NDArray[np.float64]


class Scores(NamedTuple):
    """What `score` gives: each 0 to 1, or NaN."""

    accuracy: float
    f1: float
    auroc: float
    calibration_error: float
    threshold: float


def score(logits: ArrayLike, labels: ArrayLike, threshold: float = 0.5) -> Scores:
    """The scores of predictions that are positive where the probability is at least the threshold.

    F1 is NaN where neither the truth nor the prediction has positives, AUROC for one label only, all for none at all;
    without a threshold (NaN) accuracy and F1 are NaN. AUROC ranks log-odds, as probabilities near 0 and 1 are ties.
    Raises DatasetError for a logit that is NaN.
    """
    auroc = roc_auc(logits, labels)
    positive, probability = np.asarray(labels, np.bool_), probabilities(logits)
    accuracy = f1 = math.nan
    if positive.size and not math.isnan(threshold):
        predicted = probability >= threshold
        accuracy = float((predicted == positive).mean())
        f1 = f1_of(int((predicted & positive).sum()), int(predicted.sum()), int(positive.sum()))
    return Scores(accuracy, f1, auroc, calibration_error(probability, positive), threshold)


def probabilities(logits: ArrayLike) -> Floats:
    """`[n]`: 1 / (1 + exp(-logit)), without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0, -np.asarray(logits, np.float64))))


def f1_of(hits: int, predicted: int, positive: int) -> float:
    """2 TP / (2 TP + FP + FN) of true positives, predicted positives and true ones; NaN where there are none."""
    return 2 * hits / (predicted + positive) if predicted + positive else math.nan


def choose_threshold(logits: ArrayLike, labels: ArrayLike) -> float:
    """The probability from which on to predict the positive label, as validation bags have it: where F1 is highest.

    F1 and not Youden's index, as F1 is what the papers' tables have. Between the probabilities of two things, the
    middle; of several that are as good, the nearest to 0.5; 0 where all should be positive. NaN for one label only.
    """
    probability, positive = probabilities(logits), np.asarray(labels, np.bool_)
    if not positive.any() or positive.all():
        return math.nan
    found = np.unique(probability)
    predicted = len(probability) - np.searchsorted(np.sort(probability), found)
    hits = positive.sum() - np.searchsorted(np.sort(probability[positive]), found)
    f1 = 2 * hits / (predicted + positive.sum())
    middles = (found[:-1] + found[1:]) / 2
    middles = np.where(middles > found[:-1], middles, found[1:])  # which round to the lower of two that touch
    best = np.concatenate([[0.0], middles])[f1 >= f1.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


def calibration_error(probability: ArrayLike, labels: ArrayLike) -> float:
    """The expected calibration error, 0 to 1: how far the probability is from the share of positives, over 15 bins.

    Bins are of equal width over 0 .. 1, each with its upper end, and weigh as many things as lie in them. Bins are of
    the probability of the positive label, not of the confidence in the likelier one, in which what is too sure of
    either label could hide the other. NaN for nothing.
    Source: Guo et al., "On calibration of modern neural networks" (ICML 2017), equation 3.
    """
    values, positive = np.asarray(probability, np.float64), np.asarray(labels, np.float64)
    assert values.shape == positive.shape
    if not values.size:
        return math.nan
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], values, "left")
    gaps = np.bincount(bins, positive - values, BINS)  # a bin's gap of means times its count
    return float(np.abs(gaps).sum() / values.size)


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The T whose logits / T are likeliest on validation bags; above 1 where the network is too sure.

    Labels count as Platt has them, (n1 + 1) / (n1 + 2) of n1 positive and 1 / (n0 + 2) of n0 negative bags: with 0 and
    1, the few bags of a fold that are told apart without error would have T fall to 0. For many bags the two are one.
    T is between 0.01 and 100, the latter where the logits point the wrong way. NaN for one label only.
    Source: Guo et al., section 4.2; Platt, "Probabilistic outputs for support vector machines" (1999), section 2.2.
    """
    from scipy.optimize import minimize_scalar

    values, positive = np.asarray(logits, np.float64), np.asarray(labels, np.bool_)
    assert values.shape == positive.shape
    if not positive.any() or positive.all():
        return math.nan
    target = np.where(positive, (positive.sum() + 1) / (positive.sum() + 2), 1 / ((~positive).sum() + 2))

    def unlikeliness(log_temperature: float) -> float:
        scaled = values / math.exp(log_temperature)
        return float((np.logaddexp(0, scaled) - target * scaled).mean())

    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(unlikeliness, bounds=(low, high), method="bounded", options={"xatol": 1e-7})
    return math.exp(found.x)


def effective_share(attention: ArrayLike) -> float:
    """The share of a bag's instances that attention goes to: exp(entropy) / K, from 1 / K to 1 where all get the same.

    `attention` `[K]` is at least 0; it need not sum to 1. NaN where there is none.
    """
    weights = np.asarray(attention, np.float64)
    assert weights.ndim == 1
    if not weights.size or not weights.sum() > 0:
        return math.nan
    shares = weights[weights > 0] / weights.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()) / weights.size)


def attention_auroc(attentions: Sequence[ArrayLike], labels: Sequence[ArrayLike]) -> float:
    """How well attention ranks a bag's positive instances above its others: the AUROC within bags, their mean.

    Both are `[K]` a bag. As a bag's attention sums to 1 whatever it holds, it is not compared between bags; bags whose
    instances are all of one label are left out. NaN where no bag has both.
    """
    areas = [roc_auc(attention, label) for attention, label in zip(attentions, labels, strict=True)]
    defined = [area for area in areas if not math.isnan(area)]
    return float(np.mean(defined)) if defined else math.nan
