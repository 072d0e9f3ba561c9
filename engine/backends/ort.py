"""ONNX Runtime on the CPU."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from glassrt.engine.bundle import RunPrecision
from glassrt.engine.errors import BackendUnavailable, BundleError

PROVIDER = "CPUExecutionProvider"


class OrtBackend:
    """One ONNX Runtime session with its batch size fixed."""

    name = "ort"

    def __init__(self, graph: bytes, batch: int, threads: int, precision: RunPrecision) -> None:
        refuse_both_packages()
        self.version = onnxruntime.__version__
        self.batch = batch
        self.precision = precision
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that spin between calls take the cores from those that read and write.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_free_dimension_override_by_name("batch", batch)
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=[PROVIDER])
        except Exception as error:  # the runtime's own exceptions share no base but this
            raise BundleError(f"ONNX Runtime {self.version} cannot load the graph: {first_line(error)}") from error
        self.device = self._session.get_providers()[0].removesuffix("ExecutionProvider")
        self._outputs = [output.name for output in self._session.get_outputs()]

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))

    def close(self) -> None:
        del self._session


def refuse_both_packages() -> None:
    """Raise BackendUnavailable when both builds of ONNX Runtime are installed: they overwrite each other."""
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if is_installed(name)]
    if len(installed) == 2:
        raise BackendUnavailable(
            "onnxruntime and onnxruntime-gpu are both installed and break each other: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one"
        )


def is_installed(name: str) -> bool:
    """Whether a distribution of this name is installed."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def first_line(error: Exception) -> str:
    """What an exception says, without the pages some runtimes add."""
    return (str(error).splitlines() or [type(error).__name__])[0]
