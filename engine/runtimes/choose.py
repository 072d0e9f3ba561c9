"""Which of the runtimes that run here `auto` takes."""

import logging
from collections.abc import Iterator
from functools import cache

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.checks import Check, Timing, read_checks
from glassrt.engine.bundles.parts import RunPrecision, graph_precision
from glassrt.engine.errors import BackendUnavailable, UsageError
from glassrt.engine.runtimes.device import explain_unused, find_device, has_device
from glassrt.engine.runtimes.isa import count_cores, processor_name
from glassrt.engine.runtimes.products import find_fault, isa_of
from glassrt.engine.runtimes.table import (
    FASTEST,
    GPU_BATCH,
    MOST_WINDOWS,
    NAMES,
    PRECISIONS,
    RUNTIMES,
    can_run,
    find_lack,
    find_version,
)

USUAL = 160  # pixels of a window, below which a call takes more than the network does
MOST_SMALL = 16

LOGGER = logging.getLogger("glassrt")


def choose(bundle: Bundle, name: str = "auto", precision: str = "auto") -> tuple[str, RunPrecision]:
    """The runtime and the precision that `auto` stands for.

    Raises UsageError for what does not exist, BundleError where the bundle has no such graph, BackendUnavailable where
    nothing here runs it. What is named in full is not asked whether it can run: opening it will tell.
    """
    if name not in ("auto", *NAMES):
        raise UsageError(f"backend {name!r} does not exist; choose auto, {', '.join(NAMES)}")
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"precision {precision!r} does not exist; choose auto, {', '.join(PRECISIONS)}")
    fitting = [each for each in FASTEST if name in ("auto", each[0]) and precision in ("auto", each[1])]
    if not fitting:
        offered = ", ".join(each[1] for each in FASTEST if each[0] == name)
        raise UsageError(f"precision {precision} does not run through {name}; it has {offered}")
    held = [each for each in fitting if holds(bundle, *each)]
    if not held:
        for role in bundle.manifest.networks:  # of which one raises
            bundle.find_graph(graph_precision(fitting[-1][1]), RUNTIMES[fitting[-1][0]].target, role)
    if name != "auto" and precision != "auto":
        return held[0]
    here = checks_of_here(bundle)
    unfailed = [each for each in held if each not in here or here[each].passed]
    wanted = [each for each in unfailed if precision != "auto" or each[1] == "fp32" or each in here]
    right = [each for each in in_order(wanted, here) if can_run(*each) and not find_fault(bundle, *each)]
    if right:
        if name == "auto" and RUNTIMES[right[0][0]].target == "cpu":
            tell_unused_gpu(tuple({each[0]: each for each in wanted if RUNTIMES[each[0]].target == "gpu"}.values()))
        return right[0]
    failed = [f"{each[1]} through {each[0]}" for each in held if each not in unfailed]
    if name != "auto" and (wanted or not failed):
        return (wanted or held)[-1]
    if faults := [fault for each in wanted if can_run(*each) and (fault := find_fault(bundle, *each))]:
        raise BackendUnavailable(faults[0])
    if failed:
        raise BackendUnavailable(
            f"{bundle.path} failed its verification here in {' and '.join(failed)}: glassrt info {bundle.path} shows "
            "how far off it is; --backend and --precision together run it all the same"
        )
    extras = " or ".join(dict.fromkeys(f"'glassrt[{RUNTIMES[each].extra}]'" for each, _ in reversed(held)))
    raise BackendUnavailable(f"nothing here runs {bundle.path} in precision {precision}: pip install {extras}")


def checks_of_here(bundle: Bundle) -> dict[tuple[str, RunPrecision], Check]:
    """The bundle's checks that count here, by runtime and precision."""
    return {(check.backend, check.precision): check for check in read_checks(bundle) if is_of_here(check)}


def in_order(
    wanted: list[tuple[str, RunPrecision]], here: dict[tuple[str, RunPrecision], Check]
) -> list[tuple[str, RunPrecision]]:
    """The fastest first: as measured on this very processor, where all of a CPU's were; else as they are given."""
    measured = {each: timing.ms for each in wanted if each in here and (timing := find_timing(here[each]))}
    on_cpu = [each for each in wanted if RUNTIMES[each[0]].target == "cpu" and can_run(*each)]
    if not on_cpu or not all(each in measured for each in on_cpu):
        return wanted
    return [each for each in wanted if each not in on_cpu] + sorted(on_cpu, key=measured.__getitem__)


def find_timing(check: Check) -> Timing | None:
    """What was timed with a check, if it was on a processor of this very name and as many cores, in a time and a batch
    that there can be.
    """
    timing = check.timing
    if timing is None or timing.ms <= 0 or not 1 <= timing.batch <= MOST_WINDOWS:
        return None
    return timing if (timing.processor, timing.cores) == (processor_name(), count_cores()) else None


def explain_slower(bundle: Bundle, name: str, chosen: tuple[str, RunPrecision]) -> str:
    """Why precision `auto` through `name` did not take what runs faster here, and what changes that, in one line;
    nothing where there is nothing faster.
    """
    if not bundle.manifest.inputs:  # but features, of which `verify` has none
        return ""
    here = checks_of_here(bundle)
    candidates = [each for each in FASTEST if name in ("auto", each[0]) and holds(bundle, *each) and can_run(*each)]
    ordered = candidates[: candidates.index(chosen)] if chosen in candidates else []
    verify = f"glassrt verify {bundle.path} --tiles DIR"
    for runtime, precision in ordered:
        if precision == "fp32" or ((check := here.get((runtime, precision))) and check.passed):
            continue
        begun = f"Runs in {chosen[1]}: "
        if fault := find_fault(bundle, runtime, precision):
            return begun + fault
        with_what = f"{runtime} {find_version(RUNTIMES[runtime].module)} on this kind of processor ({isa_of(runtime)})"
        if check:
            return f"{begun}{precision} failed its verification with {with_what}"
        return f"{begun}{precision} was not verified with {with_what}; {verify} may make it faster"
    return ""


def is_of_here(check: Check) -> bool:
    """Whether a check was made with the runtime's version that is installed, on a device and instructions as here."""
    if check.backend not in RUNTIMES:
        return False
    runtime = RUNTIMES[check.backend]
    if (version := find_version(runtime.module)) is None:
        return False
    if runtime.target == "gpu":
        return has_device() and (check.version, check.isa, check.device) == (
            version,
            find_device().isa,
            find_device().name,
        )
    return (check.version, check.isa, check.device) == (version, isa_of(check.backend), "CPU")


def choose_batch(bundle: Bundle, name: str, precision: RunPrecision) -> int:
    """Windows a call with which a runtime finishes most of them: as measured on this very processor, else on its kind,
    on GPUs as expected.
    """
    if RUNTIMES[name].target == "gpu":
        return GPU_BATCH
    check = checks_of_here(bundle).get((name, precision))
    if check and (timing := find_timing(check)):
        return timing.batch
    if not bundle.manifest.inputs:  # but features, which are small
        return MOST_WINDOWS
    # Larger ones leave the caches below float32; those of small windows are small.
    few = 2 if precision != "fp32" else 4 if name == "ort" and not isa_of(name).startswith("avx512") else 1
    return few * count_small(bundle.manifest.window)


def count_small(window: int) -> int:
    """How many windows of so many pixels' side are called for at once where one of usual size would be."""
    return max(1, min(MOST_SMALL, (USUAL // window) ** 2))


def running(bundle: Bundle) -> Iterator[tuple[str, RunPrecision]]:
    """Every runtime and precision that can run here and that the bundle has a graph for, the fastest first."""
    return (each for each in FASTEST if holds(bundle, *each) and can_run(*each))


def holds(bundle: Bundle, name: str, precision: RunPrecision) -> bool:
    """Whether the bundle has a graph of each of its networks that the runtime runs in that precision."""
    roles = {
        graph.role
        for graph in bundle.manifest.graphs
        if graph.precision == graph_precision(precision) and graph.target in ("any", RUNTIMES[name].target)
    }
    return roles >= bundle.manifest.networks.keys()


@cache  # once in a process
def tell_unused_gpu(unused: tuple[tuple[str, RunPrecision], ...]) -> None:
    """Log why a GPU that is there is not used through these runtimes, which have a graph for it."""
    line = explain_unused(
        lambda device: (
            "; ".join(f"{name}: {find_lack(name, precision)}" for name, precision in unused)
            or "no runtime for GPUs has what is asked for"
        )
    )
    if line:
        LOGGER.warning("%s", line)
