"""What networks are run on and what they give: the inputs, or the outputs, of n windows by name, `[n, ...]` each."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.tensors import TensorSpec

Samples = Mapping[str, NDArray[Any]]


def count(samples: Samples) -> int:
    """How many windows they are of."""
    return len(next(iter(samples.values())))


def take(samples: Samples, which: slice | Sequence[int] | NDArray[np.int64]) -> Samples:
    """Those of some windows."""
    return {name: values[which] for name, values in samples.items()}


def pick(samples: Samples, specs: Iterable[TensorSpec]) -> dict[str, NDArray[Any]]:
    """Those that a network takes, or gives, in its order."""
    return {spec.name: samples[spec.name] for spec in specs}


def join(parts: Sequence[Samples]) -> Samples:
    """Those of the windows of all parts, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def each(samples: Samples) -> Sequence[Samples]:
    """Those of every window alone."""
    return [take(samples, slice(number, number + 1)) for number in range(count(samples))]
