"""Latency of network calls: back to back, for what a machine can do; at a fixed rate, for what a caller waits."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, product
from typing import Any, NamedTuple, cast

import numpy as np

from glassrt.benchmarks.ceiling import count_gmac, measure_ceiling
from glassrt.engine.backends import RUNTIMES, can_run, choose, open_backend, run_windows
from glassrt.engine.bundle import Bundle, RunPrecision
from glassrt.engine.errors import GlassError, UsageError
from glassrt.engine.selftest import check_backend

Report = dict[str, Any]

ROUNDS = 5  # in which settings take turns, so that a machine whose speed drifts slows all of them
WARM_UP_S = 0.3
HOPELESS = 3  # times the duration after which a rate that cannot be kept is given up
START = r"""
import json, re, resource, sys, time
from pathlib import Path
begun, path, backend, batch, threads, precision = float(sys.argv[1]), *sys.argv[2:]
import numpy as np
from glassrt.engine import open_backend, open_bundle
imported = time.time()
bundle = open_bundle(path)
opened = open_backend(bundle, backend, int(batch), int(threads), precision)
loaded = time.time()
window = bundle.manifest.window
opened.infer({"image": np.zeros((int(batch), window, window, 3), np.uint8)})
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
    bundle: Bundle, backends: Sequence[str], precisions: Sequence[str], batches: Sequence[int], threads: Sequence[int]
) -> list[Setting]:
    """Every combination, `auto` resolved; combinations that a runtime does not have are left out, if any remains.

    Raises as `open_backend`, or UsageError if none remains.
    """
    found: dict[tuple[str, RunPrecision], None] = {}
    for backend, precision in product(backends, precisions):
        try:
            found[choose(bundle, backend, precision)] = None
        except GlassError:
            if len(backends) * len(precisions) == 1:
                raise
    held = {(graph.precision, target) for graph in bundle.manifest.graphs for target in targets_of(graph.target)}
    running = [
        (backend, precision)
        for backend, precision in found
        if ("fp32" if precision == "bf16" else precision, RUNTIMES[backend].target) in held
        and can_run(backend, precision)
    ]
    if not running:
        raise UsageError(f"{bundle.path} runs in none of {', '.join(precisions)} through {', '.join(backends)} here")
    return [
        Setting(name, precision, batch, count) for (name, precision), batch, count in product(running, batches, threads)
    ]


def targets_of(target: str) -> tuple[str, ...]:
    """The kinds of device whose runtimes load a graph."""
    return ("cpu", "gpu") if target == "any" else (target,)


def measure_latency(
    bundle: Bundle,
    settings: Sequence[Setting],
    duration: float,
    rate: float | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> Report:
    """Percentiles of latency, throughput, share of the machine's ceiling, start-up and memory for each setting.

    Every setting computes for `duration` seconds in all. With `rate`, calls also arrive that many times a second, and
    what counts is the time from arrival to result, however late the call could start. A runtime that does not give the
    bundle's example before and after is not timed: BackendUnavailable.
    """
    progress("calibrating")
    gmac = count_gmac(bundle)
    counts = {setting.threads for setting in settings}
    ceilings = {count: measure_ceiling({each.precision for each in settings}, count) for count in counts}
    opened = [open_backend(bundle, each.backend, each.batch, each.threads, each.precision) for each in settings]
    try:
        windows = [example_windows(bundle, backend.batch) for backend in opened]
        calls = [lambda b=backend, w=batch: run_windows(b, w) for backend, batch in zip(opened, windows, strict=True)]
        seconds: list[list[list[float]]] = [[] for _ in settings]  # of calls, by setting and round
        for number in range(ROUNDS):
            for setting, call, rounds in zip(settings, calls, seconds, strict=True):
                progress(f"round {number + 1} of {ROUNDS}: {setting.name}")
                closed_loop(call, WARM_UP_S)
                rounds.append(closed_loop(call, duration / ROUNDS))
        waits: list[list[float] | None] = [open_loop(call, rate, duration) if rate else None for call in calls]
        for backend in opened:
            check_backend(bundle, backend)
        rows = []
        for setting, backend, rounds, waited in zip(settings, opened, seconds, waits, strict=True):
            ceiling = ceilings[setting.threads].get(setting.precision) if backend.device == "CPU" else None
            row: Report = {
                "name": setting.name,
                "unit": "ms",
                "runs": [1000 * statistics.median(each) for each in rounds],
            }
            row |= {**setting._asdict(), "device": backend.device, "version": backend.version}
            row |= summarise([*chain(*rounds)], setting.batch, bundle.manifest.window)
            row["ceiling_share"] = gmac * row["windows_per_s"] / ceiling if ceiling else None
            if rate is not None:
                row["at_rate"] = {"rate_per_s": rate, **percentiles(waited)} if waited else None
            rows.append(row)
    finally:
        for backend in opened:
            backend.close()
    progress("start-up")
    for row, setting in zip(rows, settings, strict=True):
        row["start"] = measure_start(bundle, setting)
    return {
        "bundle": bundle.manifest.name,
        "window": bundle.manifest.window,
        "gmac_per_window": gmac,
        "ceiling_gmac_per_s": {str(count): rates for count, rates in ceilings.items()},
        "duration_s": duration,
        "rows": rows,
    }


def example_windows(bundle: Bundle, batch: int) -> np.ndarray:
    """The bundle's example, or noise, as often as a batch holds."""
    side = bundle.manifest.window
    stored = bundle.read_example()
    image = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8) if stored is None else stored[0]
    return np.repeat(image, batch, axis=0)


def closed_loop(call: Callable[[], object], duration: float) -> list[float]:
    """Seconds of each of the calls made back to back for a while."""
    taken: list[float] = []
    end = time.perf_counter() + duration
    while (start := time.perf_counter()) < end or not taken:
        call()
        taken.append(time.perf_counter() - start)
    return taken


def open_loop(call: Callable[[], object], rate: float, duration: float) -> list[float] | None:
    """Seconds from each arrival to its result at a fixed rate of arrivals; None if the rate cannot be kept."""
    start = time.perf_counter()
    waited = []
    for number in range(max(1, int(rate * duration))):
        arrival = start + number / rate
        time.sleep(max(0.0, arrival - time.perf_counter()))
        call()
        done = time.perf_counter()
        if done - start > HOPELESS * duration:
            return None
        waited.append(done - arrival)
    return waited


def summarise(seconds: Sequence[float], batch: int, window: int) -> Report:
    """Percentiles and throughput of calls."""
    rate = batch * len(seconds) / sum(seconds)
    return {**percentiles(seconds), "windows_per_s": rate, "mpix_per_s": rate * window**2 / 1e6}


def percentiles(seconds: Sequence[float]) -> Report:
    """Number of calls, and milliseconds that a share of them did not exceed; tails need many calls to mean anything."""
    cuts = {f"p{share}_ms": 1000 * float(np.percentile(seconds, share)) for share in (50, 90, 95, 99)}
    return {"calls": len(seconds), **cuts, "max_ms": 1000 * max(seconds), "mean_ms": 1000 * statistics.mean(seconds)}


def measure_start(bundle: Bundle, setting: Setting) -> Report:
    """Seconds of a fresh process to import, to load with the example's run, and of its first call; peak memory."""
    arguments = (setting.backend, setting.batch, setting.threads, setting.precision)
    command = [sys.executable, "-c", START, repr(time.time()), str(bundle.path), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise GlassError(f"a fresh process failed: {(done.stderr.splitlines() or ['it says nothing'])[-1]}")
    return cast(Report, json.loads(done.stdout.splitlines()[-1]))


def each_row(report: Report) -> Iterator[Report]:
    """The rows as a terminal shows them; the first columns of figures are milliseconds."""
    for row in report["rows"]:
        shown = {"": row["name"]}
        shown |= {f"p{share}": f"{row[f'p{share}_ms']:.1f}" for share in (50, 90, 95, 99)}
        shown |= {"max": f"{row['max_ms']:.1f}", "win/s": f"{row['windows_per_s']:.1f}"}
        shown["MP/s"] = f"{row['mpix_per_s']:.1f}"
        shown["ceiling"] = "" if row["ceiling_share"] is None else f"{row['ceiling_share']:.0%}"
        if "at_rate" in row:
            shown["p99 at rate"] = "not kept" if row["at_rate"] is None else f"{row['at_rate']['p99_ms']:.1f}"
        start = row["start"]
        shown["start s"] = f"{start['import_s'] + start['load_s'] + start['first_call_s']:.2f}"
        shown["GB"] = f"{start['peak_rss_gb']:.2f}"
        yield shown
