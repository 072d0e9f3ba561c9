"""What every runtime offers, whatever it computes with."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import RunPrecision
from glassrt.engine.errors import UsageError, first_line

Array = NDArray[Any]


class Backend(Protocol):
    """Runs one graph at one fixed batch size.

    Inputs and outputs are contiguous; outputs are the caller's own. Up to `streams` threads may call `infer` at once.
    `device` is what really computes, with the instructions `isa`, in `precision`; `version` is the runtime's.
    """

    name: str
    device: str
    isa: str
    version: str
    precision: RunPrecision
    batch: int
    streams: int

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]: ...

    def close(self) -> None: ...


def run_windows(backend: Backend, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits `[N, C, h, w]` of windows `[N, H, W, 3]`, N being the backend's batch."""
    (logits,) = backend.infer({"image": windows}).values()
    return logits


def check_input(name: str, given: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise UsageError unless an input is what the graph takes: runtimes would take its bytes for something else."""
    if given.shape != shape or given.dtype != dtype:
        raise UsageError(f"{name}: expected {dtype} {list(shape)}, got {given.dtype} {list(given.shape)}")


def tell_failure(backend: Backend, error: Exception) -> str:
    """One line for a call that failed after the backend was opened: a GPU without memory, one that fell off."""
    return f"{backend.name} {backend.version} on {backend.device} failed: {first_line(error)}"
