"""Latency of network calls: back to back, for what a machine can do; at a fixed rate, for what a caller waits."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain, product
from typing import Any, NamedTuple, cast

import numpy as np

from glassrt.benchmarks.ceiling import count_gmac, measure_ceiling, measure_gpu_ceiling
from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.parts import RunPrecision
from glassrt.engine.errors import GlassError, UsageError
from glassrt.engine.runtimes.choose import choose
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Array, Backend
from glassrt.engine.runtimes.selftest import check_backend
from glassrt.engine.runtimes.table import NAMES, PRECISIONS, RUNTIMES, can_run

Report = dict[str, Any]

ROUNDS = 5  # in which settings take turns, so that a machine whose speed drifts slows all of them
WARM_UP_S = 0.3
BACKLOG = 8  # arrivals that may wait at the end of a rate that was kept
STARTS = 3  # fresh processes whose median counts
START = r"""
import json, re, resource, sys, time
from pathlib import Path
begun, path, backend, batch, threads, precision = float(sys.argv[1]), *sys.argv[2:]
import numpy as np
from glassrt.engine import open_backend, open_bundle
imported = time.time()
bundle = open_bundle(path)
opened = open_backend(bundle, backend, int(batch), int(threads), precision, tested=False)
loaded = time.time()
opened.infer({spec.name: np.zeros(spec.shape, spec.dtype) for spec in opened.inputs})
status = Path("/proc/self/status")
if status.exists():  # the other figure remembers the parent's memory on Linux
    peak = int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) * 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({
    "import_s": imported - begun, "load_s": loaded - imported, "first_call_s": time.time() - loaded,
    "peak_rss_gb": peak / 1e9,
}))
"""


class Setting(NamedTuple):
    """One way to run a bundle; `threads` 0 uses every core."""

    backend: str
    precision: RunPrecision
    batch: int
    threads: int

    @property
    def name(self) -> str:
        """The setting in words."""
        return f"{self.backend} {self.precision} x{self.batch}{f' on {self.threads}' if self.threads else ''}"


def lay_settings(
    bundle: Bundle,
    backends: Sequence[str],
    precisions: Sequence[str],
    batches: Sequence[int],
    threads: Sequence[int],
    left_out: Callable[[str], None] = lambda reason: None,
) -> list[Setting]:
    """Every combination, `auto` resolved. What bundle, runtime or machine does not have is told to `left_out`.

    Raises UsageError for names that do not exist, and as `choose` does if nothing remains or one alone was asked for.
    """
    check_names("backend", backends, NAMES)
    check_names("precision", precisions, PRECISIONS)
    alone = len(backends) * len(precisions) == 1
    found: dict[tuple[str, RunPrecision], None] = {}
    for backend, precision in product(backends, precisions):
        try:
            chosen = choose(bundle, backend, precision)
        except GlassError as error:
            if alone:
                raise
            left_out(str(error))
            continue
        if alone or can_run(*chosen):  # one alone is left to its opening, which says what is missing
            found[chosen] = None
        else:
            left_out(f"{chosen[0]} does not run {chosen[1]} here")
    if not found:
        raise UsageError(f"{bundle.path} runs in none of {', '.join(precisions)} through {', '.join(backends)} here")
    return [
        Setting(name, precision, batch, count)
        for (name, precision), batch, count in product(found, batches, threads)
        if count == threads[0] or RUNTIMES[name].target == "cpu"
    ]


def check_names(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raise UsageError for a name that is neither known nor `auto`."""
    if wrong := [name for name in given if name not in ("auto", *known)]:
        raise UsageError(f"{what} {wrong[0]!r} does not exist; choose auto, {', '.join(known)}")


def measure_latency(
    bundle: Bundle,
    settings: Sequence[Setting],
    duration: float,
    rate: float | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> Report:
    """Percentiles of latency, throughput, share of the machine's ceiling, start-up and memory for each setting.

    Every setting computes for `duration` seconds in all. With `rate`, that many windows also arrive a second, a batch
    at a time, and what counts is the time from arrival to result, however late the call could start. A runtime that
    does not give the bundle's example before and after is not timed: BackendUnavailable.
    """
    progress("calibrating")
    gmac, ceilings = count_gmac(bundle), find_ceilings(settings)
    rows = time_settings(bundle, settings, duration, rate, progress)
    starts = time_starts(bundle, settings, progress)
    for row, setting, start in zip(rows, settings, starts, strict=True):
        ceiling = ceilings[place_of(setting)].get(setting.precision)
        row["ceiling_share"] = gmac * row["windows_per_s"] / ceiling if ceiling else None
        row["start"] = start
    return {
        "bundle": bundle.manifest.name,
        "window": bundle.manifest.window,
        "gmac_per_window": gmac,
        "ceiling_gmac_per_s": ceilings,
        "duration_s": duration,
        "rows": rows,
    }


def find_ceilings(settings: Sequence[Setting]) -> dict[str, dict[str, float]]:
    """GMAC/s that each place reaches at most, by precision."""
    ceilings = {}
    for place, threads in {place_of(setting): setting.threads for setting in settings}.items():
        precisions = {each.precision for each in settings if place_of(each) == place}
        ceilings[place] = measure_gpu_ceiling(precisions) if place == "GPU" else measure_ceiling(precisions, threads)
    return ceilings


def time_settings(
    bundle: Bundle, settings: Sequence[Setting], duration: float, rate: float | None, progress: Callable[[str], None]
) -> list[Report]:
    """A row for each setting: all are opened, take turns, and must still give the bundle's example at the end."""
    with ExitStack() as stack:
        opened = []
        for each in settings:
            opened.append(open_backend(bundle, each.backend, each.batch, each.threads, each.precision))
            stack.callback(opened[-1].close)
        calls = [partial(backend.infer, example_inputs(bundle, backend)) for backend in opened]
        seconds: list[list[list[float]]] = [[] for _ in settings]  # of calls, by setting and round
        for number in range(ROUNDS):
            for setting, call, rounds in zip(settings, calls, seconds, strict=True):
                progress(f"round {number + 1} of {ROUNDS}: {setting.name}")
                closed_loop(call, WARM_UP_S)
                rounds.append(closed_loop(call, duration / ROUNDS))
        rows = []
        for setting, backend, call, rounds in zip(settings, opened, calls, seconds, strict=True):
            row: Report = {"name": setting.name, "unit": "ms"}
            row |= {"runs": [1000 * statistics.median(each) for each in rounds], **setting._asdict()}
            row |= {"device": backend.device, "version": backend.version}
            row |= summarise([*chain(*rounds)], setting.batch, bundle.manifest.window)
            if rate is not None:
                progress(f"at a fixed rate: {setting.name}")
                row["at_rate"] = time_at_rate(call, rate, setting.batch, row["windows_per_s"], duration)
            rows.append(row)
        for backend in opened:
            check_backend(bundle, backend)
    return rows


def time_at_rate(call: Callable[[], object], rate: float, batch: int, fastest: float, duration: float) -> Report | None:
    """Percentiles at `rate` windows a second, a batch at a time; None if not kept, or more than the `fastest`."""
    if rate >= fastest:
        return None
    closed_loop(call, WARM_UP_S)
    waited = open_loop(call, rate / batch, duration)
    return {"windows_per_s": rate, **percentiles(waited)} if waited else None


def time_starts(bundle: Bundle, settings: Sequence[Setting], progress: Callable[[str], None]) -> list[Report]:
    """Medians of fresh processes, a report for each setting; they take turns, and the first of each is not counted."""
    starts: list[list[Report]] = [[] for _ in settings]
    for number in range(STARTS + 1):  # the first reads files that the others find in memory
        for setting, measured in zip(settings, starts, strict=True):
            progress(f"start-up {number} of {STARTS}: {setting.name}")
            measured.append(measure_start(bundle, setting))
    return [{key: statistics.median(each[key] for each in measured[1:]) for key in measured[0]} for measured in starts]


def place_of(setting: Setting) -> str:
    """Where a setting computes: `GPU`, or the processor's threads, 0 being all."""
    return "GPU" if RUNTIMES[setting.backend].target == "gpu" else f"{setting.threads} threads"


def example_inputs(bundle: Bundle, backend: Backend) -> dict[str, Array]:
    """The bundle's examples, or noise, as often as a batch holds."""
    examples = [known for role in bundle.manifest.networks if (known := bundle.read_example(role))]
    if len(examples) == len(bundle.manifest.networks):
        stored = {name: values for known in examples for name, values in known.inputs.items()}
        return {spec.name: np.repeat(stored[spec.name], backend.batch, axis=0) for spec in backend.inputs}
    noise = np.random.default_rng(0)
    return {spec.name: noise.integers(0, 256, spec.sized(backend.batch)).astype(spec.dtype) for spec in backend.inputs}


def closed_loop(call: Callable[[], object], duration: float) -> list[float]:
    """Seconds of each of the calls made back to back for a while."""
    taken: list[float] = []
    end = time.perf_counter() + duration
    while (start := time.perf_counter()) < end or not taken:
        call()
        taken.append(time.perf_counter() - start)
    return taken


def open_loop(call: Callable[[], object], rate: float, duration: float) -> list[float] | None:
    """Seconds from each arrival to its result at a fixed rate of arrivals; None if it was not kept up with."""
    start = time.perf_counter()
    waited = []
    for number in range(max(1, int(rate * duration))):
        arrival = start + number / rate
        time.sleep(max(0.0, arrival - time.perf_counter()))
        call()
        waited.append(time.perf_counter() - arrival)
        if waited[-1] > BACKLOG / rate + duration:  # hopeless
            return None
    return None if waited[-1] > BACKLOG / rate else waited


def summarise(seconds: Sequence[float], batch: int, window: int) -> Report:
    """Percentiles and throughput of calls."""
    rate = batch * len(seconds) / sum(seconds)
    return {**percentiles(seconds), "windows_per_s": rate, "mpix_per_s": rate * window**2 / 1e6}


def percentiles(seconds: Sequence[float]) -> Report:
    """Number of calls, and milliseconds that a share of them did not exceed; tails need many calls to mean anything."""
    cuts = {f"p{share}_ms": 1000 * float(np.percentile(seconds, share)) for share in (50, 90, 95, 99)}
    return {"calls": len(seconds), **cuts, "max_ms": 1000 * max(seconds), "mean_ms": 1000 * statistics.mean(seconds)}


def measure_start(bundle: Bundle, setting: Setting) -> Report:
    """Seconds of a fresh process to import, to load, and of its first call; peak memory."""
    arguments = (setting.backend, setting.batch, setting.threads, setting.precision)
    command = [sys.executable, "-c", START, repr(time.time()), str(bundle.path), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise GlassError(f"a fresh process failed: {(done.stderr.splitlines() or ['it says nothing'])[-1]}")
    return cast(Report, json.loads(done.stdout.splitlines()[-1]))


def each_table(report: Report) -> Iterator[list[Report]]:
    """Two tables as a terminal of 80 columns shows them: calls; throughput, start-up and memory."""
    yield [
        {"": row["name"]}
        | {"calls": str(row["calls"])}
        | {f"p{share}": f"{row[f'p{share}_ms']:.1f}" for share in (50, 90, 95, 99)}
        | {"max": f"{row['max_ms']:.1f}"}
        | ({"at rate": tell_rate(row)} if "at_rate" in row else {})
        for row in report["rows"]
    ]
    yield [
        {
            "": row["name"],
            "win/s": f"{row['windows_per_s']:.1f}",
            "MP/s": f"{row['mpix_per_s']:.1f}",
            "ceiling": "" if row["ceiling_share"] is None else f"{row['ceiling_share']:.0%}",
            "start s": f"{sum(row['start'][key] for key in ('import_s', 'load_s', 'first_call_s')):.2f}",
            "GB": f"{row['start']['peak_rss_gb']:.2f}",
        }
        for row in report["rows"]
    ]


def tell_rate(row: Report) -> str:
    """The 99th percentile of waiting at the fixed rate."""
    return "not kept" if row["at_rate"] is None else f"{row['at_rate']['p99_ms']:.1f}"
