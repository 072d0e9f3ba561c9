"""Which runtimes there are, and which of them run here."""

import importlib
import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, NamedTuple

from glassrt.engine.bundles.parts import RunPrecision, Target
from glassrt.engine.errors import BackendUnavailable, GlassError, first_line
from glassrt.engine.runtimes.device import has_device


class Runtime(NamedTuple):
    """The file of this wing that runs it, the module that it imports, the extra that installs that, and whose graphs it
    runs.

    The file has `open_graph(graph, batch, threads, precision, name, throughput)`, which gives a Backend, unless it runs
    plans, and `find_lack(name, precision)`, which says what keeps it from running here and how to mend that.
    """

    file: str
    module: str
    extra: str
    target: Target


RUNTIMES = {
    "ort": Runtime("ort", "onnxruntime", "cpu", "cpu"),
    "openvino": Runtime("openvino", "openvino", "cpu", "cpu"),
    "ort-cuda": Runtime("ort", "onnxruntime", "gpu", "gpu"),
    "ort-tensorrt": Runtime("ort", "onnxruntime", "gpu", "gpu"),
    "tensorrt": Runtime("tensorrt", "tensorrt", "tensorrt", "gpu"),
    "tensorrt-rtx": Runtime("tensorrt", "tensorrt_rtx", "tensorrt-rtx", "gpu"),
}
NAMES = tuple(RUNTIMES)
GPU_BATCH = 16
MOST_WINDOWS = 256  # of a batch
PRECISIONS: tuple[RunPrecision, ...] = ("fp32", "bf16", "fp16", "int8")
# The fastest first. On CPUs as measured with networks of two sizes on two cores with AVX-512, on GPUs as expected;
# what `glassrt verify` times on a machine goes before that.
# ONNX Runtime cannot keep TensorRT from rounding float32 to TF32, so it is not offered there.
FASTEST: tuple[tuple[str, RunPrecision], ...] = (
    ("tensorrt", "int8"),
    ("tensorrt", "fp16"),
    ("tensorrt-rtx", "int8"),
    ("tensorrt-rtx", "fp16"),
    ("ort-tensorrt", "int8"),
    ("ort-tensorrt", "fp16"),
    ("ort-cuda", "fp16"),
    ("tensorrt", "fp32"),
    ("tensorrt-rtx", "fp32"),
    ("ort-cuda", "fp32"),
    ("ort-cuda", "int8"),
    ("openvino", "int8"),
    ("openvino", "bf16"),
    ("ort", "int8"),
    ("openvino", "fp32"),
    ("ort", "fp32"),
)


def load_file(name: str) -> Any:
    """The file of this wing that runs a runtime, which imports it. Raises whatever keeps that from being imported."""
    return importlib.import_module(f"glassrt.engine.runtimes.{RUNTIMES[name].file}")


def can_run(name: str, precision: RunPrecision) -> bool:
    """Whether the runtime is installed and finds a device that computes in that precision itself."""
    runtime = RUNTIMES[name]
    if find_spec(runtime.module) is None or (runtime.target == "gpu" and not has_device()):
        return False
    with told_plainly(name):
        return not load_file(name).find_lack(name, precision)


def find_lack(name: str, precision: RunPrecision) -> str:
    """Why a runtime does not run on a device that is there."""
    if find_spec(RUNTIMES[name].module) is None:
        return f"not installed (pip install 'glassrt[{RUNTIMES[name].extra}]')"
    return str(load_file(name).find_lack(name, precision))


def find_version(module: str) -> str | None:
    """The version of the package that brings a runtime's module, which for GPUs goes by another name; None without."""
    name = module.replace("_", "-")
    for package in (name, f"{name}-gpu", f"{name}-cu13"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return None


@contextmanager
def told_plainly(name: str) -> Iterator[None]:
    """A runtime that cannot be loaded, or a device that cannot be used, in one line."""
    runtime = RUNTIMES[name]
    try:
        yield
    except GlassError:
        raise
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"backend {name} needs {error.name}, which is not installed: pip install 'glassrt[{runtime.extra}]'"
        ) from error
    except ImportError as error:
        raise BackendUnavailable(f"backend {name} is installed but cannot be loaded: {error}") from error
    except Exception as error:  # what runtimes, CUDA and its libraries raise shares no base but this
        raise BackendUnavailable(f"backend {name} cannot start: {type(error).__name__}: {first_line(error)}") from error
