"""Runtimes that run a bundle's graph. One file each; none falls back in silence."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundle import Bundle, RunPrecision
from glassrt.engine.errors import BackendUnavailable, UsageError

Array = NDArray[Any]

NAMES = ("ort", "openvino")
MODULES = {"ort": "onnxruntime", "openvino": "openvino"}
PRECISIONS: tuple[RunPrecision, ...] = ("fp32", "bf16", "fp16", "int8")
# What runs on CPUs, the fastest first: measured on networks of two sizes on two cores with AVX-512.
FASTEST: tuple[tuple[str, RunPrecision], ...] = (
    ("openvino", "int8"),
    ("openvino", "bf16"),
    ("ort", "int8"),
    ("ort", "fp32"),
    ("openvino", "fp32"),
)
DEFAULT_BATCH = 1  # on CPUs larger batches leave the caches and take longer a window


class Backend(Protocol):
    """Runs one graph at one fixed batch size.

    Inputs and outputs are contiguous; an output is valid until the next `infer`. `device` is what really
    computes, in `precision`; `version` is the runtime's.
    """

    name: str
    device: str
    version: str
    precision: RunPrecision
    batch: int

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]: ...

    def close(self) -> None: ...


def open_backend(
    bundle: Bundle, name: str = "auto", batch: int = DEFAULT_BATCH, threads: int = 0, precision: str = "fp32"
) -> Backend:
    """A backend with one of the bundle's graphs loaded for `batch` windows at a time; the caller closes it.

    `auto` as the name takes the fastest runtime that is installed; as the precision, the fastest that the bundle was
    verified for with it. `threads` 0 uses every core. Raises BackendUnavailable where the runtime is not installed or
    the processor cannot, UsageError for a name that is none, BundleError where the graph is missing.
    """
    if batch < 1:
        raise UsageError(f"batch {batch} must be at least 1")
    name, chosen = choose(bundle, name, precision)
    graph = bundle.read_graph("fp32" if chosen == "bf16" else chosen)
    with told_plainly(name):
        if name == "ort":
            from glassrt.engine.backends.ort import OrtBackend

            return OrtBackend(graph, batch, threads, chosen)
        from glassrt.engine.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(graph, batch, threads, chosen)


def choose(bundle: Bundle, name: str, precision: str) -> tuple[str, RunPrecision]:
    """The runtime and the precision that `auto` stands for. Raises as `open_backend`."""
    if name not in ("auto", *NAMES):
        raise UsageError(f"backend {name!r} does not exist; choose auto, {' or '.join(NAMES)}")
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"precision {precision!r} does not exist; choose auto, {', '.join(PRECISIONS)}")
    fitting = [each for each in FASTEST if name in ("auto", each[0]) and precision in ("auto", each[1])]
    if not fitting:
        through = "a CPU" if name == "auto" else name
        raise UsageError(f"precision {precision} does not run through {through}; choose auto or fp32")
    installed = [each for each in fitting if is_installed(each[0])]
    if precision != "auto":
        return (installed or fitting)[0]
    verified = {(check.backend, check.precision) for check in bundle.manifest.verified if check.passed}
    allowed = [each for each in installed if each[1] == "fp32" or (each in verified and can_run(*each))]
    return (allowed or fitting[-1:])[0]


def is_installed(name: str) -> bool:
    """Whether a backend's runtime is there to be imported."""
    return find_spec(MODULES[name]) is not None


def can_run(name: str, precision: RunPrecision) -> bool:
    """Whether this processor computes in that precision; runtimes would else do so slowly, or in another."""
    if (name, precision) != ("openvino", "bf16"):
        return True
    with told_plainly(name):
        from glassrt.engine.backends.openvino import has_bfloat16

        return has_bfloat16()


@contextmanager
def told_plainly(name: str) -> Iterator[None]:
    """A runtime that cannot be loaded in one line."""
    try:
        yield
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
