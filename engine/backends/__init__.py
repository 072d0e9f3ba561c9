"""Runtimes that run a bundle's graph. One file each; none falls back in silence."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundle import Bundle
from glassrt.engine.errors import BackendUnavailable, UsageError

Array = NDArray[Any]

NAMES = ("ort", "openvino")
MODULES = {"ort": "onnxruntime", "openvino": "openvino"}
DEFAULT_BATCH = 1  # on CPUs larger batches leave the caches and take longer a window


class Backend(Protocol):
    """Runs one graph at one fixed batch size.

    Inputs and outputs are contiguous; an output is valid until the next `infer`. `device` is what really
    computes, `version` the runtime's.
    """

    name: str
    device: str
    version: str
    batch: int

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]: ...

    def close(self) -> None: ...


def open_backend(bundle: Bundle, name: str = "auto", batch: int = DEFAULT_BATCH, threads: int = 0) -> Backend:
    """A backend with the bundle's float32 graph loaded for `batch` windows at a time; the caller closes it.

    `auto` takes ONNX Runtime, the fastest for float32 on CPUs, then OpenVINO. `threads` 0 uses every core.
    Raises BackendUnavailable where the runtime is not installed, UsageError for a name that is none.
    """
    if name == "auto":
        name = next((each for each in NAMES if find_spec(MODULES[each])), NAMES[0])
    if name not in NAMES:
        raise UsageError(f"backend {name!r} does not exist; choose auto, {' or '.join(NAMES)}")
    if batch < 1:
        raise UsageError(f"batch {batch} must be at least 1")
    graph = bundle.read_graph("fp32")
    try:
        if name == "ort":
            from glassrt.engine.backends.ort import OrtBackend

            return OrtBackend(graph, batch, threads)
        from glassrt.engine.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(graph, batch, threads)
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"backend {name} needs {error.name}, which is not installed: pip install 'glassrt[cpu]'"
        ) from error
    except ImportError as error:
        raise BackendUnavailable(f"backend {name} is installed but cannot be loaded: {error}") from error


def run_windows(backend: Backend, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits `[N, C, h, w]` of windows `[N, H, W, 3]`, N being the backend's batch; valid until the next call."""
    (logits,) = backend.infer({"image": windows}).values()
    return logits
