"""What looking where disease is suspected costs: drawing places from large maps, and making the maps."""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from glassrt.benchmarks.machine import write_report
from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.errors import UsageError
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.tasks.segment import lay_windows, segment
from glassrt.training.datasets.weak import WeakSlide
from glassrt.training.mapping import map_slide, open_ground
from glassrt.training.methods.beta_kl import MAP_BATCH
from glassrt.training.suspicion import SuspicionMap

SIDE = 10_000  # pixels of the map that places are drawn from
DRAWS = 1000
MAP_MPP = 8.0
ALPHA = 2.0


def measure_suspicion(bundle: Path, slide: Path, rounds: int, report_file: Path | None) -> dict[str, Any]:
    """Seconds of each part, and windows a second of mapping a slide and of the engine's own pass over it, by turns."""
    report: dict[str, Any] = {"sampling": measure_sampling(), "mapping": measure_mapping(bundle, slide, rounds)}
    write_report(report_file, report)
    return report


def measure_sampling() -> dict[str, Any]:
    """A map of 10^8 pixels summed once, and places drawn from it."""
    random = np.random.default_rng(1)
    suspicions = random.random((SIDE, SIDE), np.float32).astype(np.float16)
    begin = time.perf_counter()
    places = SuspicionMap(suspicions, ALPHA)
    prepared = time.perf_counter() - begin
    each = [seconds(lambda: places.draw(random)) for _ in range(DRAWS)]
    return {
        "pixels": SIDE**2,
        "prepare_s": prepared,
        "draw_ms_median": 1e3 * statistics.median(each),
        "draw_ms_p99": 1e3 * float(np.percentile(each, 99)),
    }


def measure_mapping(path: Path, slide: Path, rounds: int) -> dict[str, Any]:
    """A slide mapped as for training, and segmented as it is served, on all of its windows."""
    bundle = open_bundle(path)
    test, window = bundle.segmentation, bundle.manifest.window
    if test.views != ((1.0,), False) or test.stride != window * 4 // 5:
        raise UsageError(f"{path} is not run as maps are made, at scale 1 without flips: take a bundle of beta-KL")
    ground = open_ground(WeakSlide(slide.stem, slide, None, True, None), test.mpp, max(MAP_MPP, test.mpp))
    tissue = np.ones(ground.map_size[::-1], np.bool_)
    mapping = open_backend(bundle, "ort", batch=MAP_BATCH)
    serving = open_backend(bundle, "ort", throughput=True)
    rates: dict[str, list[float]] = {"mapping": [], "engine": []}
    with open_slide(slide) as opened:
        grid = GridReader(opened, test.mpp)
        windows = lay_windows(grid, bundle)
        count = len(windows.windows)
        for _ in range(rounds):
            taken = seconds(lambda: map_slide(ground, tissue, mapping, window, test.output_stride))
            rates["mapping"].append(count / taken)
            taken = seconds(lambda: segment(grid, windows, bundle, serving, ground.map_size, lambda tile: None))
            rates["engine"].append(count / taken)
    for each in (mapping, serving, ground.grid.slide):
        each.close()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {"slide": slide.name, "windows": count, "cores": os.cpu_count(), "windows_per_s": rates} | {
        "share_of_engine": medians["mapping"] / medians["engine"]
    }


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
