"""Small logits brought to just the pixels that a map samples, bilinear with half-pixel centres."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.geometry.sampling import Sampling

Floats = NDArray[np.float32]
ONE_THREAD = 2**18  # multiplications up to which OpenBLAS keeps a product on the calling thread


@dataclass(frozen=True)
class Slice:
    """A run of map pixels along one axis: the view's pixels it needs, and how they are mixed."""

    needed: Indices
    lower: Indices
    upper: Indices
    weight: Floats

    @staticmethod
    def of(sampling: Sampling, start: int, end: int) -> "Slice":
        """Map pixels `start`...`end` of a sampling; a neighbour of no weight is not needed."""
        lower, weight = sampling.lower[start:end], sampling.weight[start:end]
        upper = np.where(weight > 0, sampling.upper[start:end], lower)
        needed = np.unique(np.concatenate([lower, upper]))
        return Slice(needed, np.searchsorted(needed, lower), np.searchsorted(needed, upper), weight)

    def inside(self, start: int, length: int) -> slice:
        """Which of the needed pixels lie in `start`...`start + length`."""
        first, end = np.searchsorted(self.needed, [start, start + length])
        return slice(int(first), int(end))

    @property
    def is_identity(self) -> bool:
        return not self.weight.any() and len(self.needed) == len(self.lower)


def interpolate(values: Floats, down: Slice, across: Slice) -> Floats:
    """Mix `values` `[C, needed rows, needed columns]` to the map's pixels `[C, h, w]`."""
    if not down.is_identity:
        lower, upper = values[:, down.lower], values[:, down.upper]
        values = mix(lower, upper, down.weight[:, None])
    if not across.is_identity:
        lower, upper = values.take(across.lower, axis=2), values.take(across.upper, axis=2)
        values = mix(lower, upper, across.weight)
    return values


def mix(lower: Floats, upper: Floats, weight: Floats) -> Floats:
    """`lower` + (`upper` - `lower`) * `weight`, in the memory of `upper`."""
    upper -= lower
    upper *= weight
    upper += lower
    return upper


def add_product(total: Floats, left: Floats, right: Floats) -> None:
    """`total` + `left` `[C, m, k]` @ `right` `[k, n]`, in pieces so small that the product stays on this thread.

    NumPy's products wake threads that then spin for milliseconds on the cores that the network computes on: a third of
    the throughput of an eight-bit network was lost to them.
    """
    rows = max(1, ONE_THREAD // max(1, right.size))
    for top in range(0, left.shape[1], rows):
        total[:, top : top + rows] += left[:, top : top + rows] @ right


def upsampling_matrix(window: int, output_stride: int) -> Floats:
    """`[window, window / output_stride]`: bilinear upsampling along one axis, half-pixel centres."""
    sampling = Sampling.between(window, window // output_stride)
    matrix = np.zeros((window, window // output_stride), np.float32)
    pixels = np.arange(window)
    matrix[pixels, sampling.lower] += 1 - sampling.weight
    matrix[pixels, sampling.upper] += sampling.weight
    return matrix


def softmax_beside_zero(logits: Floats) -> Floats:
    """Probabilities `[C, ...]` of a first class whose logit is 0 and of others with `logits` `[C - 1, ...]`."""
    probabilities = np.empty((len(logits) + 1, *logits.shape[1:]), np.float32)
    highest = np.maximum(logits.max(axis=0), 0, out=probabilities[0])
    np.subtract(logits, highest, out=probabilities[1:])
    np.negative(highest, out=highest)
    np.exp(probabilities, out=probabilities)
    probabilities /= probabilities.sum(axis=0)
    return probabilities
