"""A bag's softmax-weighted mean, taken chunk by chunk.

A head over a slide's tiles weighs them by the softmax of their attention logits (Eqs. 1 and 2 of "Distill-to-Label").
Its running form keeps the largest logit so far and the sums relative to it, as in Milakov and Gimelshein, "Online
normalizer calculation for softmax" (2018): the result is exact, and a million tiles need no more memory than one.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32] | NDArray[np.float64]


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
        width = values.shape[1:] if self._sums is None else self._sums.shape
        if scores.ndim != 1 or len(width) != 1 or values.shape != (len(scores), *width):
            wanted = "d" if self._sums is None else str(len(self._sums))
            raise ValueError(f"scores {scores.shape} and values {values.shape}: they are to be [k] and [k, {wanted}]")
        if not (np.isfinite(scores).all() and np.isfinite(values).all()):
            raise ValueError(f"instances {self.count} to {self.count + len(scores) - 1} hold NaN or infinity")
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
