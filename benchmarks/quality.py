"""What bundles are worth and what they cost: scores on GlaS beside milliseconds a window and windows a square
millimetre.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.benchmarks.ceiling import count_gmac
from glassrt.benchmarks.machine import describe_machine
from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.parts import Precision
from glassrt.engine.errors import UsageError
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.training.evaluate import evaluate

MANY_SCALES = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)  # of the multi-scale test, with flips
ROUNDS = 7  # in which settings take turns, so that a machine whose speed drifts slows all of them
CALLS_S = 0.4  # seconds that each computes a round
SCORES = ("mIoU", "object F1", "object Dice")  # those that the table shows


class Setting(NamedTuple):
    """A bundle under the views it is run with, in a precision."""

    bundle: Bundle
    precision: Precision

    @property
    def name(self) -> str:
        """In words."""
        scales, flips = self.bundle.manifest.views
        views = f"{len(scales)} scales" if len(scales) > 1 else "1 scale"
        return f"{self.bundle.manifest.name}, {views}{', flips' * flips}, {self.precision}"


class Scored(msgspec.Struct):
    """What a setting is worth on a split of GlaS, which no processor changes."""

    name: str
    split: str
    sha256: str
    scales: tuple[float, ...]
    flips: bool
    precision: str
    scores: dict[str, float]
    windows_per_mm2: float
    gmac_per_window: float

    @property
    def key(self) -> tuple[Any, ...]:
        """What the scores are of."""
        return self.split, self.sha256, self.scales, self.flips, self.precision


class Timed(msgspec.Struct):
    """Milliseconds of the network alone a window of a setting on one kind of processor, each of a round."""

    name: str
    setting: str
    sha256: str
    isa: str
    processor: str
    runtime: str
    batch: int
    runs: list[float]
    load: float
    date: str
    unit: str = "ms"


class Report(msgspec.Struct):
    """What is known of settings, and how long they take on each kind of processor."""

    settings: list[Scored]
    rows: list[Timed]


def lay_settings(bundles: Sequence[Bundle], precisions: Sequence[Precision], many: Sequence[Bundle]) -> list[Setting]:
    """Every bundle at scale 1, and those of `many` in the multi-scale test too, in the precisions that they have."""
    views = [each.replace((1.0,), False) for each in bundles] + [each.replace(MANY_SCALES, True) for each in many]
    found = [
        Setting(bundle, precision)
        for bundle in views
        for precision in precisions
        if any(graph.precision == precision and graph.target != "gpu" for graph in bundle.manifest.graphs)
    ]
    if not found:
        raise UsageError(f"none of the bundles has a graph in {', '.join(precisions)}")
    return found


def read_known(path: Path) -> Report:
    """What a report says. Raises UsageError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{path} is no report of `bench quality` ({error}): name another file") from error


def windows_a_mm2(bundle: Bundle) -> float:
    """Windows that a square millimetre of a large slide takes."""
    scales, flips = bundle.manifest.views
    step_um = [bundle.manifest.stride * bundle.manifest.mpp / scale for scale in scales]
    return (1 + flips) * sum((1000 / step) ** 2 for step in step_um)


def measure_quality(
    settings: Sequence[Setting],
    split: str,
    score: Callable[[Bundle, Backend], dict[str, float]],
    known: Report,
    runtime: str = "auto",
    progress: Callable[[str], None] = lambda name: None,
) -> Report:
    """The scores of each setting on the split, and how long it takes on this kind of processor.

    Scores that are `known` are not computed again; what else is known stays, but for times on this kind of processor,
    and for what is of another bundle of the same name.
    """
    today = {each.name: each.bundle.sha256 for each in settings}
    scored = {each.key: each for each in known.settings if today.get(each.name, each.sha256) == each.sha256}
    kept = [each for each in known.rows if today.get(each.setting, each.sha256) == each.sha256]
    timed = {(each.setting, each.isa): each for each in kept}
    machine = describe_machine()
    with ExitStack() as stack:
        opened = [stack.enter_context(closing(open_setting(each, runtime))) for each in settings]
        times = time_settings(settings, opened, progress)
        for setting, backend, runs in zip(settings, opened, times, strict=True):
            manifest, sha256 = setting.bundle.manifest, setting.bundle.sha256
            found = Scored(setting.name, split, sha256, *manifest.views, setting.precision, {}, 0.0, 0.0)
            if found.key not in scored:
                progress(f"scoring {setting.name}")
                found.scores = score(setting.bundle, backend)
                found.windows_per_mm2 = windows_a_mm2(setting.bundle)
                found.gmac_per_window = count_gmac(setting.bundle)
                scored[found.key] = found
            told = (setting.name, sha256, backend.isa, machine["processor"], backend.name, backend.batch, runs)
            timed[setting.name, backend.isa] = Timed(
                f"{setting.name}, {backend.isa}", *told, machine["load"], machine["date"]
            )
    return Report(list(scored.values()), list(timed.values()))


def open_setting(setting: Setting, runtime: str = "auto") -> Backend:
    """The setting's network as `score` runs it."""
    return open_backend(setting.bundle, runtime, precision=setting.precision, throughput=True)


def time_settings(
    settings: Sequence[Setting], opened: Sequence[Backend], progress: Callable[[str], None]
) -> list[list[float]]:
    """Milliseconds a window of each setting in each round."""
    times: list[list[float]] = [[] for _ in settings]
    for number in range(ROUNDS + 1):  # the first warms up
        for setting, backend, taken in zip(settings, opened, times, strict=True):
            progress(f"round {number} of {ROUNDS}: {setting.name}")
            milliseconds = time_windows(backend)
            if number:
                taken.append(milliseconds)
    return times


def time_windows(backend: Backend) -> float:
    """Milliseconds a window, called from as many threads as the backend has streams."""
    random = np.random.default_rng(0)
    windows: dict[str, NDArray[Any]] = {
        spec.name: random.integers(0, 256, spec.sized(backend.batch), np.uint8) for spec in backend.inputs
    }
    calls, begun = 0, time.perf_counter()
    with ThreadPoolExecutor(backend.streams) as pool:
        while (taken := time.perf_counter() - begun) < CALLS_S:
            for done in [pool.submit(backend.infer, windows) for _ in range(backend.streams)]:
                done.result()
            calls += backend.streams
    return 1000 * taken / (calls * backend.batch)


def score_glas(data: Path, split: str) -> Callable[[Bundle, Backend], dict[str, float]]:
    """What scores a bundle on GlaS in a folder."""
    return lambda bundle, backend: evaluate(bundle, backend, "glas", data, split)["scores"]


def find_times(report: Report) -> dict[str, dict[str, float]]:
    """Median milliseconds a window on each kind of processor, by setting."""
    found: dict[str, dict[str, float]] = {each.isa: {} for each in report.rows}
    for each in report.rows:
        found[each.isa][each.setting] = statistics.median(each.runs)
    return found


def label(scored: Scored, report: Report) -> str:
    """What a setting is called where all of a report are shown."""
    return scored.name + f", {scored.split}" * (len({each.split for each in report.settings}) > 1)


def find_points(report: Report) -> dict[str, list[tuple[str, float, float]]]:
    """Points to draw of each kind of processor: setting, milliseconds a square millimetre, mIoU."""
    return {
        kind: [
            (label(each, report), times[each.name] * each.windows_per_mm2, each.scores["mIoU"])
            for each in report.settings
            if each.name in times
        ]
        for kind, times in find_times(report).items()
    }


def draw_table(report: Report) -> list[list[str]]:
    """A row a setting: scores, milliseconds a window on each kind of processor, and what a square millimetre takes."""
    kinds = find_times(report)
    heads = ["", *SCORES, "GMAC", "windows a mm²", *(f"ms, {kind}" for kind in kinds)]
    table = [[*heads, *(f"ms a mm², {kind}" for kind in kinds)]]
    for each in report.settings:
        cells = [
            label(each, report),
            *(f"{each.scores[name]:.2f}" for name in SCORES),
            f"{each.gmac_per_window:.2f}",
            f"{each.windows_per_mm2:.0f}",
        ]
        times = [kind.get(each.name) for kind in kinds.values()]
        cells += ["" if ms is None else f"{ms:.1f}" for ms in times]
        table.append(cells + ["" if ms is None else f"{ms * each.windows_per_mm2:.0f}" for ms in times])
    return table
