"""Whole slides: what `score` takes beyond the network itself, and the memory that it needs."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from glassrt.benchmarks.mosaic import Mosaic
from glassrt.engine.backends import Backend, open_backend, run_windows
from glassrt.engine.bundle import Bundle
from glassrt.engine.errors import SlideError
from glassrt.engine.pipeline import Clock, cut_batches
from glassrt.engine.results import Result
from glassrt.engine.scoring import find_tissue, open_grid, score
from glassrt.engine.segment import lay_windows
from glassrt.engine.slide import open_slide

Report = dict[str, Any]

BARE_WINDOWS = 256  # 80 MB


def measure_overhead(
    path: Path,
    bundle: Bundle,
    backend_name: str,
    precision: str,
    batch: int,
    repeats: int,
    progress: Callable[[int], None],
) -> Report:
    """Seconds of `score` from an opened backend to written files, against the bare network on the same batches.

    The network is timed before and after each run, so that a machine whose speed drifts slows both; medians count.
    """
    backend = open_backend(bundle, backend_name, batch, precision=precision)
    windows = slide_windows(path, bundle, backend)
    bare, whole, stages = [], [], []
    result: Result | None = None
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats + 1):
            before = time_bare(backend, windows)
            start = time.perf_counter()
            with open_slide(path) as slide:
                result = score(slide, bundle, Path(folder, "out"), backend)
            elapsed = time.perf_counter() - start
            after = time_bare(backend, windows)
            progress(repeat)
            if repeat:  # the first round warms up
                bare.append((before + after) / 2)
                whole.append(elapsed)
                stages.append(result.seconds)
    backend.close()
    assert result is not None
    count = result.windows["run"]
    bare_seconds = statistics.median(bare) * count / (len(windows) * batch)
    return {
        "slide": path.name,
        "bundle": bundle.manifest.name,
        "scales": bundle.manifest.scales,
        "backend": f"{backend.name} {backend.version} on {backend.device}, {backend.precision}, batch {batch}",
        "windows": count,
        "bare_seconds": bare_seconds,
        "score_seconds": statistics.median(whole),
        "ratio": statistics.median(whole) / bare_seconds,
        "ms_per_window_bare": 1000 * bare_seconds / count,
        "stages": {name: statistics.median(each[name] for each in stages) for name in stages[0]},
        "repeats": repeats,
    }


def slide_windows(path: Path, bundle: Bundle, backend: Backend) -> list[np.ndarray]:
    """Full batches of a slide's windows: all of them, or enough for some seconds."""
    with open_slide(path) as slide, ThreadPoolExecutor(2) as pool:
        grid = open_grid(slide, bundle)
        plan = lay_windows(grid, bundle, find_tissue(slide)[1])
        cut = islice(cut_batches(grid, plan, backend.batch, pool, 2, Clock()), max(1, BARE_WINDOWS // backend.batch))
        batches = [batch for indices, batch in cut if len(indices) == backend.batch]
    if not batches:
        raise SlideError(f"{path}: fewer than {backend.batch} windows hold tissue; choose a larger slide")
    return batches


def time_bare(backend: Backend, windows: list[np.ndarray]) -> float:
    """Seconds of the network alone on every batch."""
    start = time.perf_counter()
    for batch in windows:
        run_windows(backend, batch)
    return time.perf_counter() - start


def measure_memory(data: Path, side: int, tissue: float) -> Report:
    """Peak resident memory and time of `glassrt score` on a made slide of `side` pixels, in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        slide = Path(folder, "mosaic.tiff")
        Mosaic(data, side, tissue).write(slide)
        size = slide.stat().st_size
        command = [
            str(Path(sys.executable).with_name("glassrt")),
            "score",
            str(slide),
            "--out",
            str(Path(folder, "out")),
        ]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SlideError(f"{slide}: glassrt score ended with exit code {process.returncode}")
        result = Path(folder, "out", "mosaic", "result.json").read_text()
    figures = msgspec.json.decode(result)
    return {
        "side": side,
        "slide_gb": size / 1e9,
        "tissue": tissue,
        "windows": figures["windows"],
        "peak_rss_gb": usage.ru_maxrss * 1024 / 1e9,
        "seconds": seconds,
        "stages": figures["seconds"],
        "backend": figures["backend"],
    }
