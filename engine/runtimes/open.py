"""A bundle's graphs opened in a runtime. None falls back in silence."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.parts import Precision, Role, RunPrecision, graph_precision
from glassrt.engine.errors import BackendUnavailable, UsageError
from glassrt.engine.runtimes.chain import Chain
from glassrt.engine.runtimes.choose import choose, choose_batch
from glassrt.engine.runtimes.products import find_fault
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.runtimes.selftest import check_backend
from glassrt.engine.runtimes.table import MOST_WINDOWS, RUNTIMES, load_file, told_plainly

if TYPE_CHECKING:
    from glassrt.engine.runtimes.tensorrt import TensorRtBackend

Running = TypeVar("Running", bound=Backend)


def open_backend(
    bundle: Bundle,
    name: str = "auto",
    batch: int | None = None,
    threads: int = 0,
    precision: str = "fp32",
    tested: bool = True,
    throughput: bool = False,
    role: Role | None = None,
) -> Backend:
    """A backend with the graph of a bundle's network for a role, by default of its only one or a chain of both, and
    `batch` windows a call; the caller closes it.

    `auto` as the name takes the fastest runtime that runs here; as the precision, the fastest that the bundle was
    verified for with it. `threads` 0 uses every core. It has given the bundle's example by then, unless it is not to be
    `tested`. The default batch is one window. For `throughput` it is what the runtime finishes most windows with, which
    may take longer over each, if as many threads call it at once as the backend has `streams`. Raises
    BackendUnavailable where the runtime is not installed, the device cannot, int8 would be wrong on this processor or
    the example is missed, UsageError for a name that is none, BundleError where the graph is missing or does not fit
    its manifest.
    """
    name, chosen = choose(bundle, name, precision)
    if batch is None:
        batch = choose_batch(bundle, name, chosen) if throughput else 1
    if not 1 <= batch <= MOST_WINDOWS:
        raise UsageError(f"batch {batch} must be from 1 to {MOST_WINDOWS}")
    with told_plainly(name):
        if fault := find_fault(bundle, name, chosen):
            raise BackendUnavailable(fault)

        def open_one(role: Role | None) -> Backend:
            if RUNTIMES[name].file == "tensorrt":
                return open_plan_backend(bundle, name, batch, cast(Precision, chosen), tested, role)
            return try_out(bundle, load_graph(bundle, name, batch, threads, chosen, throughput, role), tested, role)

        if role is None and "context" in bundle.manifest.networks:
            return open_chain(bundle, open_one)
        return open_one(role)


def open_chain(bundle: Bundle, open_one: Callable[[Role], Backend]) -> Chain:
    """A backend of a bundle's two networks; where the second does not open, the first is closed."""
    context = open_one("context")
    try:
        return Chain(context, open_one("fine"), bundle.manifest)
    except BaseException:
        context.close()
        raise


def load_graph(
    bundle: Bundle, name: str, batch: int, threads: int, precision: RunPrecision, throughput: bool, role: Role | None
) -> Backend:
    """A backend that loads ONNX itself."""
    graph = bundle.read_graph(graph_precision(precision), RUNTIMES[name].target, role)
    backend: Backend = load_file(name).open_graph(graph, batch, threads, precision, name, throughput)
    return backend


def open_plan_backend(
    bundle: Bundle, name: str, batch: int, precision: Precision, tested: bool = True, role: Role | None = None
) -> "TensorRtBackend":
    """A backend that runs a plan, which is built again if a kept one does not load or fails its example."""
    from glassrt.engine.runtimes.flavours import require_device
    from glassrt.engine.runtimes.plans import open_plan
    from glassrt.engine.runtimes.tensorrt import TensorRtBackend

    require_device(name)  # else a plan would be built that cannot run
    plan = open_plan(bundle, name, precision, batch, role=role)
    try:
        return try_out(bundle, TensorRtBackend(plan), tested, role)
    except BackendUnavailable as error:
        if plan.built:
            raise
        reason = f"failed ({error})"
    plan = open_plan(bundle, name, precision, batch, unusable=reason, role=role)
    return try_out(bundle, TensorRtBackend(plan), tested, role)


def try_out(bundle: Bundle, backend: Running, tested: bool, role: Role | None) -> Running:
    """The backend, if it is not to be tested or gives the bundle's example; else it is closed. Raises as that does."""
    if tested:
        try:
            check_backend(bundle, backend, role)
        except BaseException:
            backend.close()
            raise
    return backend
