"""A bag's weighted mean, taken chunk by chunk.

A head over a slide's tiles weighs them by the softmax of their attention logits (Eqs. 1 and 2 of "Distill-to-Label").
Its running form keeps the largest logit so far and the sums relative to it, as in Milakov and Gimelshein, "Online
normalizer calculation for softmax" (2018): the result is exact, and a million tiles need no more memory than one.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32] | NDArray[np.float64]


class BagMean(Protocol):
    """The weighted mean of a bag's values; its instances come in any number of parts."""

    count: int

    def add(self, scores: Floats, values: Floats) -> None:
        """Take the scores `[k]` and values `[k, d]` of more instances."""

    def mean(self) -> NDArray[np.float64]:
        """The weighted mean `[d]`."""

    def weigh(self, scores: Floats) -> NDArray[np.float32]:
        """The weights `[k]` of instances with these scores in the whole bag."""


def open_mean(pooling: str) -> BagMean:
    """An empty bag of a pooling: `max` counts those with the highest score alone, `mean` scores all alike."""
    return HighestMean() if pooling == "max" else SoftmaxMean()


class SoftmaxMean:
    """The mean of values `[d]`, weighted by the softmax of instances' scores; sums are float64.

    `count` is the number of instances so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._peak = -np.inf
        self._total = 0.0
        self._sums: NDArray[np.float64] | None = None

    def add(self, scores: Floats, values: Floats) -> None:
        """Take the scores `[k]` and values `[k, d]` of more instances, k from 0.

        Raises ValueError for other shapes, and where one is no finite number: it would spoil all that came before.
        """
        check_part(scores, values, self._sums, self.count)
        if not len(scores):
            return
        peak = max(self._peak, float(scores.max()))
        weights = np.exp(scores.astype(np.float64) - peak)
        shrink = np.exp(self._peak - peak)
        sums = weights @ values.astype(np.float64)
        self._total = self._total * shrink + float(weights.sum())
        self._sums = sums if self._sums is None else self._sums * shrink + sums
        self._peak, self.count = peak, self.count + len(scores)

    def mean(self) -> NDArray[np.float64]:
        """The weighted mean `[d]`. Raises ValueError where there were no instances."""
        if self._sums is None:
            raise ValueError("the bag is empty: no instance was added, so it has no mean")
        return self._sums / self._total

    def weigh(self, scores: Floats) -> NDArray[np.float32]:
        """The weights `[k]` of instances with these scores in the whole bag; over all that were added they sum to 1.

        A score has to be what was added, bit for bit: one rounded to float32 differs in weight by what it was rounded.
        Raises ValueError where there were no instances.
        """
        if self._sums is None:
            raise ValueError("the bag is empty: no instance was added, so none has a weight")
        return (np.exp(scores.astype(np.float64) - self._peak) / self._total).astype(np.float32)


class HighestMean:
    """The mean of the values `[d]` of those instances alone that have the highest score: max pooling, in which several
    with one score share alike.

    As `SoftmaxMean`, and raises as that does.
    """

    def __init__(self) -> None:
        self.count = 0
        self._peak = -np.inf
        self._ties = 0
        self._sums: NDArray[np.float64] | None = None

    def add(self, scores: Floats, values: Floats) -> None:
        """As `SoftmaxMean.add`."""
        check_part(scores, values, self._sums, self.count)
        if not len(scores):
            return
        peak = float(scores.max())
        if self._sums is None or peak > self._peak:
            self._peak, self._ties, self._sums = peak, 0, np.zeros(values.shape[1])
        highest = scores == self._peak
        self._ties += int(highest.sum())
        self._sums = self._sums + values[highest].sum(axis=0, dtype=np.float64)
        self.count += len(scores)

    def mean(self) -> NDArray[np.float64]:
        """As `SoftmaxMean.mean`."""
        if self._sums is None:
            raise ValueError("the bag is empty: no instance was added, so it has no mean")
        return self._sums / self._ties

    def weigh(self, scores: Floats) -> NDArray[np.float32]:
        """As `SoftmaxMean.weigh`."""
        if self._sums is None:
            raise ValueError("the bag is empty: no instance was added, so none has a weight")
        weights: NDArray[np.float32] = ((scores == self._peak) / self._ties).astype(np.float32)
        return weights


def check_part(scores: Floats, values: Floats, sums: NDArray[np.float64] | None, count: int) -> None:
    """Raise ValueError for instances that do not fit those before, whose values are summed in `sums`, or no numbers."""
    width = values.shape[1:] if sums is None else sums.shape
    if scores.ndim != 1 or len(width) != 1 or values.shape != (len(scores), *width):
        wanted = "d" if sums is None else str(len(sums))
        raise ValueError(f"scores {scores.shape} and values {values.shape}: they are to be [k] and [k, {wanted}]")
    if not (np.isfinite(scores).all() and np.isfinite(values).all()):
        raise ValueError(f"instances {count} to {count + len(scores) - 1} hold NaN or infinity")
