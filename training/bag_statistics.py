"""What the instances that are learned from are like: by that they are normalised, and noise instances drawn."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from glassrt.training.bag_changes import NoiseRange
from glassrt.training.datasets.bag import LabelledBag
from glassrt.training.datasets.stored import StoredInstances

LEAST = 1e-3  # of the usual deviation of features, which those that hardly ever change are taken to have


class Statistics(NamedTuple):
    """Of the instances that are learned from: the mean and deviation of each channel, `[3]` of pixels in 0..255 or
    `[D]` of features, and the lowest and highest value.
    """

    mean: Tensor
    deviation: Tensor
    range: NoiseRange


def measure(bags: Sequence[LabelledBag]) -> Statistics:
    """The statistics of bags, all of pixels or all of features. Raises DatasetError for what cannot be read."""
    stored = [bag.instances for bag in bags if isinstance(bag.instances, StoredInstances)]
    return measure_features(stored) if stored else measure_pixels(bags)


def measure_pixels(bags: Sequence[LabelledBag]) -> Statistics:
    """The statistics of the training bags' pixels."""
    levels = np.zeros((3, 256))
    for bag in bags:
        assert isinstance(bag.instances, np.ndarray)
        for channel in range(3):
            levels[channel] += np.bincount(bag.instances[..., channel].ravel(), minlength=256)
    sums = levels @ np.vander(np.arange(256.0), 3, increasing=True)
    mean, square = sums[:, 1] / sums[:, 0], sums[:, 2] / sums[:, 0]
    deviation = np.sqrt(square - mean**2).clip(min=1.0)  # of channels that never change
    low = (levels > 0).argmax(1)
    high = 255 - (levels[:, ::-1] > 0).argmax(1)
    return as_statistics(mean, deviation, low, high)


def measure_features(stored: Sequence[StoredInstances]) -> Statistics:
    """The statistics of features, in one pass over their files.

    Parts are joined as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979): no difference of large sums is taken. What never changes has the usual deviation, the median: a
    slide where it does is not blown up.
    """
    length = stored[0].shape[1]
    count, mean, squares = 0, np.zeros(length), np.zeros(length)
    low, high = np.full(length, np.inf), np.full(length, -np.inf)
    for part in (part.astype(np.float64) for each in stored for part in each.parts()):
        own = part.mean(0)
        count, change, weight = count + len(part), own - mean, count * len(part) / (count + len(part))
        squares += np.square(part - own).sum(0) + change**2 * weight
        mean += change * len(part) / count
        low, high = np.minimum(low, part.min(0)), np.maximum(high, part.max(0))
    deviation = np.sqrt(squares / count)
    alive = low < high
    usual = float(np.median(deviation[alive])) if alive.any() else 1.0
    return as_statistics(mean, np.where(alive, deviation.clip(min=LEAST * usual), usual), low, high)


def as_statistics(mean: ArrayLike, deviation: ArrayLike, low: ArrayLike, high: ArrayLike) -> Statistics:
    """The same as float32 tensors."""
    first, second, lowest, highest = (torch.tensor(np.asarray(each)).float() for each in (mean, deviation, low, high))
    return Statistics(first, second, NoiseRange(lowest, highest))
