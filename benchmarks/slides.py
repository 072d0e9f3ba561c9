"""One slide from file to files: seconds of the whole and of every part alone, and how close it is to its parts."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from glassrt.engine.backends import Backend, open_backend, run_windows
from glassrt.engine.bundle import Bundle
from glassrt.engine.canvas import Canvas
from glassrt.engine.errors import GlassError, SlideError
from glassrt.engine.mapfile import MapFile, MapWriter
from glassrt.engine.pipeline import Clock, cut_batches
from glassrt.engine.results import Result
from glassrt.engine.scoring import choose_map_size, find_tissue, open_grid, score
from glassrt.engine.segment import DEFAULT_READERS, lay_windows
from glassrt.engine.slide import ArraySlide, Slide, open_slide

Report = dict[str, Any]
Progress = Callable[[str], None]

BARE_WINDOWS = 256  # at most, that the network alone is timed on: 80 MB
LONGEST = 4096  # pixels of a region that larger slides are made of, a side at most


class Parts:
    """Wall and processor seconds of each part, a pair for each repeat."""

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = {}
        self.cpu: dict[str, list[float]] = {}

    @contextmanager
    def time(self, part: str, times: float = 1.0) -> Iterator[None]:
        """Add what happens inside, which was done on one part in `times` of the work."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall.setdefault(part, []).append((time.perf_counter() - wall) * times)
        self.cpu.setdefault(part, []).append((time.process_time() - cpu) * times)

    def medians(self, kind: str) -> dict[str, float]:
        """The median of each part, `wall` or `cpu`."""
        return {name: statistics.median(seconds) for name, seconds in getattr(self, kind).items()}


def measure_slide(
    path: Path, bundle: Bundle, backend: Backend, repeats: int, readers: int, progress: Progress
) -> Report:
    """Seconds of `score` with an opened backend, and of its parts alone, taking turns; medians count.

    The bound is what the parts allow: opening, the mask and the files one after the other; between them the network,
    or all that the processor has to do there if that is more. Raises GlassError if two runs find different areas.
    """
    parts, stages = Parts(), []
    result: Result | None = None
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats + 1):
            progress(f"run {repeat} of {repeats}" if repeat else "warming up")
            round_of = Parts()
            run_parts(path, bundle, backend, readers, round_of, Path(folder))
            with round_of.time("score"), open_slide(path) as slide:
                before, result = result, score(slide, bundle, Path(folder, "out"), backend, readers=readers)
            if before is not None and before.classes != result.classes:
                raise GlassError(f"{path}: two runs gave different areas; their speed means nothing")
            round_of.wall["write"] = [result.seconds["write"]]
            if repeat:  # the first round warms up
                stages.append(result.seconds)
                for part, seconds in round_of.wall.items():
                    parts.wall.setdefault(part, []).extend(seconds)
                for part, seconds in round_of.cpu.items():
                    parts.cpu.setdefault(part, []).extend(seconds)
    assert result is not None
    return summarise(path, bundle, backend, parts, result, stages)


def summarise(
    path: Path, bundle: Bundle, backend: Backend, parts: Parts, result: Result, stages: Sequence[dict[str, float]]
) -> Report:
    """The report of repeated runs."""
    wall, cpu = parts.medians("wall"), parts.medians("cpu")
    count, whole = result.windows["run"], wall["score"]
    busy = sum(cpu[part] for part in ("read and cut", "infer", "stitch")) / (os.cpu_count() or 1)
    overlapped = {**{part: wall[part] for part in ("read and cut", "infer", "stitch")}, "processor": busy}
    between = max(wall["infer"], busy)
    bound = wall["open"] + wall["mask"] + between + wall["write"]
    return {
        "slide": path.name,
        "bundle": bundle.manifest.name,
        "scales": bundle.manifest.scales,
        "backend": f"{backend.name} {backend.version} on {backend.device}, {backend.precision}, batch {backend.batch}",
        "windows": count,
        "windows_per_s": count / whole,
        "mm2_per_s": result.analysed_mm2 / whole,
        "mpix_per_s": count * bundle.manifest.window**2 / 1e6 / whole,
        "ms_per_window_infer": 1000 * wall["infer"] / count,
        "bounded_by": max(overlapped, key=overlapped.__getitem__),
        "bound_s": bound,
        "share_of_bound": bound / whole,
        "times_network": whole / wall["infer"],
        "overlap": sum(seconds for part, seconds in wall.items() if part != "score") / whole,
        "cpu_s": cpu,
        "busy_in_score_s": {name: statistics.median(each[name] for each in stages) for name in stages[0]},
        "rows": [{"name": part, "unit": "s", "runs": seconds} for part, seconds in parts.wall.items()],
    }


def run_parts(path: Path, bundle: Bundle, backend: Backend, readers: int, parts: Parts, folder: Path) -> None:
    """Every part of scoring but the files, each on its own."""
    with parts.time("open"):
        slide = open_slide(path)
        grid = open_grid(slide, bundle)
    with slide:
        with parts.time("mask"):
            _, tissue = find_tissue(slide, readers)
        plan = lay_windows(grid, bundle, tissue)
        kept: list[np.ndarray] = []
        with parts.time("read and cut"), ThreadPoolExecutor(readers) as pool:
            for indices, windows in cut_batches(grid, plan, backend.batch, pool, readers, Clock()):
                if len(indices) == backend.batch and len(kept) * backend.batch < BARE_WINDOWS:
                    kept.append(windows)
        if not kept:
            raise SlideError(f"{path}: fewer than {backend.batch} windows hold tissue; choose a larger slide")
        with parts.time("infer", len(plan.windows) / (len(kept) * backend.batch)):
            for windows in kept:
                logits = run_windows(backend, windows)
        logits = logits.copy()
        map_size = choose_map_size(grid, bundle, None)
        with MapFile(folder / "map.raw", len(bundle.manifest.classes), map_size[1], map_size[0]) as file:
            canvas = Canvas(plan, bundle.manifest.output_stride, map_size, MapWriter(file).place)
            with parts.time("stitch"):
                for start in range(0, len(plan.windows), backend.batch):
                    indices = np.arange(start, min(start + backend.batch, len(plan.windows)))
                    canvas.add(indices, logits[: len(indices)])
                canvas.finish()
        (folder / "map.raw").unlink(missing_ok=True)


class Cases(NamedTuple):
    """What `score` is tried with, one at a time: threads of the network, readers, and times the slide's own pixels."""

    threads: Sequence[int]
    readers: Sequence[int]
    areas: Sequence[int]


def measure_scaling(
    path: Path, bundle: Bundle, like: Backend, cases: Cases, repeats: int, progress: Progress
) -> list[Report]:
    """Rows of `score` through a runtime like one that was opened, for each case; the median of `repeats` counts.

    The slides are arrays in memory that hold this slide's pixels, the larger ones more than once.
    """
    with open_slide(path) as slide:
        width, height = (min(side, LONGEST) for side in slide.level_sizes[0])
        pixels, mpp = slide.read_level(0, (0, 0), (width, height)), slide.mpp
    rows = []
    for what, values in cases._asdict().items():
        for value in values:
            progress(f"{what} {value}")
            made = ArraySlide(np.tile(pixels, (value if what == "areas" else 1, 1, 1)), mpp, path.stem)
            threads = value if what == "threads" else 0
            with closing(open_backend(bundle, like.name, like.batch, threads, like.precision)) as backend:
                readers = value if what == "readers" else DEFAULT_READERS
                runs, result = time_score(made, bundle, backend, readers, repeats)
            rate = result.windows["run"] / statistics.median(runs)
            rows.append({"name": f"{what} {value}", "unit": "s", "runs": runs, "windows_per_s": rate})
    return rows


def time_score(
    slide: Slide, bundle: Bundle, backend: Backend, readers: int, repeats: int
) -> tuple[list[float], Result]:
    """Seconds of each counted run of `score`, after one that warms up, and the last one's figures."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats + 1):
            start = time.perf_counter()
            result = score(slide, bundle, Path(folder, "out"), backend, readers=readers)
            runs.append(time.perf_counter() - start)
    return runs[1:], result


def each_row(report: Report) -> Iterator[Report]:
    """The rows as a terminal shows them."""
    for row in report["rows"]:
        cpu, rate = report["cpu_s"].get(row["name"]), row.get("windows_per_s")
        yield {
            "": row["name"],
            "seconds": f"{statistics.median(row['runs']):.3f}",
            "of processors": "" if cpu is None else f"{cpu:.3f}",
            "windows/s": "" if rate is None else f"{rate:.1f}",
        }
