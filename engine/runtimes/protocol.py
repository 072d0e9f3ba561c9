"""What every runtime offers, whatever it computes with."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from glassrt.engine.bundles.parts import RunPrecision
from glassrt.engine.bundles.tensors import TensorSpec
from glassrt.engine.errors import UsageError, first_line

Array = NDArray[Any]


class Backend(Protocol):
    """Runs one graph at one fixed batch size.

    `inputs` and `outputs` are what the graph takes and gives, every length told. Arrays are contiguous; outputs are the
    caller's own. Up to `streams` threads may call `infer` at once. `device` is what really computes, with the
    instructions `isa`, in `precision`; `version` is the runtime's.
    """

    name: str
    device: str
    isa: str
    version: str
    precision: RunPrecision
    batch: int
    streams: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]: ...

    def close(self) -> None: ...


def check_inputs(wanted: Iterable[TensorSpec], given: Mapping[str, Array]) -> None:
    """Raise UsageError unless inputs are what the graph takes: runtimes would take their bytes for something else."""
    for spec in wanted:
        found = given[spec.name]
        if found.shape != spec.shape or found.dtype != spec.dtype:
            raise UsageError(f"{spec.name}: expected {spec}, got {found.dtype} {list(found.shape)}")


def tell_failure(backend: Backend, error: Exception) -> str:
    """One line for a call that failed after the backend was opened: a GPU without memory, one that fell off."""
    return f"{backend.name} {backend.version} on {backend.device} failed: {first_line(error)}"
