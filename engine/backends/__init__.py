"""Runtimes that run a bundle's graph. One file each; none falls back in silence."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NamedTuple, cast

from glassrt.engine.backends.protocol import Array, Backend, run_windows
from glassrt.engine.bundle import Bundle, Precision, RunPrecision, Target
from glassrt.engine.device import find_device, has_device
from glassrt.engine.errors import BackendUnavailable, UsageError
from glassrt.engine.selftest import check_backend

__all__ = ["Array", "Backend", "run_windows", "open_backend", "choose", "can_run", "NAMES", "FASTEST", "RUNTIMES"]


class Runtime(NamedTuple):
    """The module a backend imports, the extra that installs it, and whose graphs it runs."""

    module: str
    extra: str
    target: Target


RUNTIMES = {
    "ort": Runtime("onnxruntime", "cpu", "cpu"),
    "openvino": Runtime("openvino", "cpu", "cpu"),
    "ort-cuda": Runtime("onnxruntime", "gpu", "gpu"),
    "ort-tensorrt": Runtime("onnxruntime", "gpu", "gpu"),
    "tensorrt": Runtime("tensorrt", "tensorrt", "gpu"),
    "tensorrt-rtx": Runtime("tensorrt_rtx", "tensorrt-rtx", "gpu"),
}
NAMES = tuple(RUNTIMES)
PRECISIONS: tuple[RunPrecision, ...] = ("fp32", "bf16", "fp16", "int8")
# The fastest first. On CPUs as measured on networks of two sizes on two cores with AVX-512, on GPUs as expected.
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
    ("ort-tensorrt", "fp32"),
    ("ort-cuda", "fp32"),
    ("ort-cuda", "int8"),
    ("openvino", "int8"),
    ("openvino", "bf16"),
    ("ort", "int8"),
    ("ort", "fp32"),
    ("openvino", "fp32"),
)
DEFAULT_BATCH = 1  # on CPUs larger batches leave the caches and take longer a window


def open_backend(
    bundle: Bundle,
    name: str = "auto",
    batch: int = DEFAULT_BATCH,
    threads: int = 0,
    precision: str = "fp32",
    tested: bool = True,
) -> Backend:
    """A backend with one of the bundle's graphs loaded for `batch` windows at a time; the caller closes it.

    `auto` as the name takes the fastest runtime that runs here; as the precision, the fastest that the bundle was
    verified for with it. `threads` 0 uses every core. It has given the bundle's example by then, unless it is not to be
    `tested`. Raises BackendUnavailable where the runtime is not installed, the device cannot or the example is missed,
    UsageError for a name that is none, BundleError where the graph is missing or does not fit its manifest.
    """
    if batch < 1:
        raise UsageError(f"batch {batch} must be at least 1")
    name, chosen = choose(bundle, name, precision)
    with told_plainly(name):
        if name.startswith("tensorrt"):
            return open_plan_backend(bundle, name, batch, cast(Precision, chosen), tested)
        backend = load_graph(bundle, name, batch, threads, chosen)
        if tested:
            check_backend(bundle, backend)
        return backend


def load_graph(bundle: Bundle, name: str, batch: int, threads: int, precision: RunPrecision) -> Backend:
    """A backend that loads ONNX itself."""
    graph = bundle.read_graph("fp32" if precision == "bf16" else precision, RUNTIMES[name].target)
    if name == "openvino":
        from glassrt.engine.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(graph, batch, threads, precision)
    from glassrt.engine.backends.ort import OrtBackend

    return OrtBackend(graph, batch, threads, precision, name)


def open_plan_backend(bundle: Bundle, name: str, batch: int, precision: Precision, tested: bool) -> Backend:
    """A backend that runs a plan, which is built again if a kept one does not load or fails its example."""
    from glassrt.engine.backends.tensorrt import TensorRtBackend
    from glassrt.engine.plans import open_plan

    find_device()  # else a plan would be built that cannot run
    plan = open_plan(bundle, name, precision, batch)
    while True:
        try:
            backend = TensorRtBackend(plan)
            if tested:
                check_backend(bundle, backend)
            return backend
        except BackendUnavailable as error:
            if plan.built:
                raise
            plan = open_plan(bundle, name, precision, batch, unusable=f"failed ({error})")


def choose(bundle: Bundle, name: str, precision: str) -> tuple[str, RunPrecision]:
    """The runtime and the precision that `auto` stands for. Raises as `open_backend`."""
    if name not in ("auto", *NAMES):
        raise UsageError(f"backend {name!r} does not exist; choose auto, {', '.join(NAMES)}")
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"precision {precision!r} does not exist; choose auto, {', '.join(PRECISIONS)}")
    fitting = [each for each in FASTEST if name in ("auto", each[0]) and precision in ("auto", each[1])]
    if not fitting:
        raise UsageError(f"precision {precision} does not run through {name}; choose auto or fp32")
    if name != "auto" and precision != "auto":
        return fitting[0]
    verified = {(check.backend, check.precision) for check in bundle.manifest.verified if check.passed}
    for each in fitting:
        if (precision != "auto" or each[1] == "fp32" or each in verified) and can_run(*each):
            return each
    if name != "auto":
        return name, "fp32"  # whose opening will say what is missing
    extras = ", ".join(dict.fromkeys(RUNTIMES[each].extra for each, _ in fitting))
    raise BackendUnavailable(f"nothing here runs precision {precision}: it takes one of the extras {extras}")


def can_run(name: str, precision: RunPrecision) -> bool:
    """Whether the runtime is installed and finds a device that computes in that precision itself."""
    if find_spec(RUNTIMES[name].module) is None:
        return False
    with told_plainly(name):
        if RUNTIMES[name].module == "onnxruntime":
            from glassrt.engine.backends.ort import has_provider

            if not has_provider(name):
                return False
        if (name, precision) == ("openvino", "bf16"):
            from glassrt.engine.backends.openvino import has_bfloat16

            return has_bfloat16()
    return RUNTIMES[name].target != "gpu" or has_device()


@contextmanager
def told_plainly(name: str) -> Iterator[None]:
    """A runtime that cannot be loaded in one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"backend {name} needs {error.name}, which is not installed: pip install 'glassrt[{RUNTIMES[name].extra}]'"
        ) from error
    except ImportError as error:
        raise BackendUnavailable(f"backend {name} is installed but cannot be loaded: {error}") from error
