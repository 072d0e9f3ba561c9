"""What bundles are worth and what they cost: scores on GlaS beside milliseconds a window and windows a square
millimetre.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassrt.benchmarks.ceiling import count_gmac
from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.parts import Precision
from glassrt.engine.errors import UsageError
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.training.evaluate import evaluate

Report = dict[str, Any]
MANY_SCALES = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)  # of the multi-scale test, with flips
ROUNDS = 7  # in which settings take turns, so that a machine whose speed drifts slows all of them
CALLS_S = 0.4  # seconds that each computes a round
SCORES = ("mIoU", "object F1", "object Dice")


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

    @property
    def key(self) -> list[Any]:
        """What scores are of."""
        scales, flips = self.bundle.manifest.views
        return [self.bundle.sha256, list(scales), flips, self.precision]


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


def windows_a_mm2(bundle: Bundle) -> float:
    """Windows that a square millimetre of a large slide takes."""
    scales, flips = bundle.manifest.views
    step_um = [bundle.manifest.stride * bundle.manifest.mpp / scale for scale in scales]
    return (1 + flips) * sum((1000 / step) ** 2 for step in step_um)


def measure_quality(
    settings: Sequence[Setting],
    score: Callable[[Bundle, Backend], Report],
    known: Sequence[Report] = (),
    progress: Callable[[str], None] = lambda name: None,
) -> Report:
    """A row for each setting: its scores, its windows, and its milliseconds a window by kind of processor.

    Rows that are `known` keep their scores, which no processor changes, and the times that other kinds took.
    """
    rows = []
    with ExitStack() as stack:
        opened = [stack.enter_context(closing(open_setting(each))) for each in settings]
        times = time_settings(settings, opened, progress)
        for setting, backend, milliseconds in zip(settings, opened, times, strict=True):
            before = next((row for row in known if row["key"] == setting.key), None)
            if before is None:
                progress(f"scoring {setting.name}")
                scores = score(setting.bundle, backend)["scores"]
                before = {"key": setting.key, "name": setting.name, **{name: scores[name] for name in SCORES}}
            row = before | {
                "windows_per_mm2": windows_a_mm2(setting.bundle),
                "gmac_per_window": count_gmac(setting.bundle),
                "runtime": backend.name,
                "ms_per_window": {**before.get("ms_per_window", {}), backend.isa: statistics.median(milliseconds)},
            }
            rows.append(row | {"unit": "ms", "runs": milliseconds})
    return {"rows": rows}


def open_setting(setting: Setting) -> Backend:
    """The setting's network as `score` runs it."""
    return open_backend(setting.bundle, precision=setting.precision, throughput=True)


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


def score_glas(data: Any, split: str | None) -> Callable[[Bundle, Backend], Report]:
    """What scores a bundle on GlaS in a folder."""
    return lambda bundle, backend: evaluate(bundle, backend, "glas", data, split)


def draw_table(report: Report) -> list[list[str]]:
    """A row a setting: scores, milliseconds a window on each kind of processor, and what a square millimetre takes."""
    kinds = list(dict.fromkeys(kind for row in report["rows"] for kind in row["ms_per_window"]))
    heads = ["", *SCORES, "GMAC", "windows a mm²", *(f"ms, {kind}" for kind in kinds)]
    table = [[*heads, *(f"ms a mm², {kind}" for kind in kinds)]]
    for row in report["rows"]:
        times, windows = row["ms_per_window"], row["windows_per_mm2"]
        cells = [
            row["name"],
            *(f"{row[name]:.2f}" for name in SCORES),
            f"{row['gmac_per_window']:.2f}",
            f"{windows:.0f}",
        ]
        cells += [f"{times[kind]:.1f}" if kind in times else "" for kind in kinds]
        table.append(cells + [f"{times[kind] * windows:.0f}" if kind in times else "" for kind in kinds])
    return table
