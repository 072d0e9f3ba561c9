"""One slide from file to files: seconds of the whole and of every part alone, and how close it is to its parts."""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassrt.benchmarks.regions import read_region
from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import GlassError, SlideError
from glassrt.engine.flow.cut import WINDOWS_AHEAD, Batch, cut_batches, cut_layer, tell_places
from glassrt.engine.flow.host import infer_batches
from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.geometry.plan import Plan
from glassrt.engine.maps.canvas import Canvas
from glassrt.engine.maps.mapfile import MapFile, MapWriter
from glassrt.engine.results.figures import Result
from glassrt.engine.runtimes.chain import Chain
from glassrt.engine.runtimes.isa import count_cores
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.slide import Slide
from glassrt.engine.slides.tissue.annotations import AUTO
from glassrt.engine.slides.tissue.scope import find_scope
from glassrt.engine.tasks.scoring import score
from glassrt.engine.tasks.segment import DEFAULT_READERS, lay_windows, refuse_tiles
from glassrt.engine.tasks.segmentation import choose_map_size, open_grid
from glassrt.engine.watch import Clock

Report = dict[str, Any]
Progress = Callable[[str], None]

BARE_WINDOWS = 256  # at most, that the network alone is timed on: 80 MB


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

    def extend(self, others: "Parts") -> None:
        """Add what other repeats took."""
        for mine, theirs in ((self.wall, others.wall), (self.cpu, others.cpu)):
            for part, seconds in theirs.items():
                mine.setdefault(part, []).extend(seconds)

    def medians(self, kind: str) -> dict[str, float]:
        """The median of each part, `wall` or `cpu`."""
        return {name: statistics.median(seconds) for name, seconds in getattr(self, kind).items()}


def measure_slide(
    path: Path, bundle: Bundle, backend: Backend, repeats: int, readers: int, progress: Progress
) -> Report:
    """Seconds of `score` with an opened backend, and of its parts alone, taking turns; medians count.

    The bound is what the parts allow: opening, the mask and the files one after the other (the files as timed within
    `score`); between them the longest of reading, networks and stitching, or all that the processor has to do there if
    that is more. Raises GlassError if two runs find different areas, UsageError for bags of tiles.
    """
    refuse_tiles(bundle)
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
                parts.extend(round_of)
    assert result is not None
    return summarise(path, bundle, backend, parts, result, stages)


def summarise(
    path: Path, bundle: Bundle, backend: Backend, parts: Parts, result: Result, stages: Sequence[dict[str, float]]
) -> Report:
    """The report of repeated runs."""
    wall, cpu = parts.medians("wall"), parts.medians("cpu")
    count, whole = result.windows["run"], wall["score"]
    networks = wall["infer"] + wall.get("context", 0.0)
    between_files = [part for part in ("read and cut", "context", "infer", "stitch") if part in wall]
    busy = sum(cpu[part] for part in between_files) / count_cores()
    overlapped = {"read and cut": wall["read and cut"], "infer": networks, "stitch": wall["stitch"], "processor": busy}
    between = max(overlapped.values())
    bound = wall["open"] + wall["mask"] + between + wall["write"]
    return {
        "slide": path.name,
        "bundle": bundle.manifest.name,
        "scales": bundle.manifest.views[0],
        "backend": f"{backend.name} {backend.version} on {backend.device}, {backend.precision}, batch {backend.batch}, "
        f"{backend.streams} at once",
        "windows": count,
        "windows_per_s": count / whole,
        "mm2_per_s": result.analysed_mm2 / whole,
        "mpix_per_s": count * bundle.manifest.window**2 / 1e6 / whole,
        "ms_per_window_infer": 1000 * wall["infer"] / count,
        **tell_contexts(result, wall),
        "bounded_by": max(overlapped, key=overlapped.__getitem__),
        "bound_s": bound,
        "share_of_bound": bound / whole,
        "times_network": whole / networks,
        "overlap": sum(seconds for part, seconds in wall.items() if part != "score") / whole,
        "cpu_s": cpu,
        "busy_in_score_s": {name: statistics.median(each[name] for each in stages) for name in stages[0]},
        "rows": [{"name": part, "unit": "s", "runs": seconds} for part, seconds in parts.wall.items()],
    }


def tell_contexts(result: Result, wall: Mapping[str, float]) -> Report:
    """How many surroundings a chain's first network was run on, and what one takes."""
    if "context" not in wall:
        return {}
    contexts = result.windows["contexts"]
    return {"contexts": contexts, "ms_per_context": 1000 * wall["context"] / contexts}


def run_parts(path: Path, bundle: Bundle, backend: Backend, readers: int, parts: Parts, folder: Path) -> None:
    """Every part of scoring but the files, each on its own."""
    with parts.time("open"):
        slide = open_slide(path)
        grid = open_grid(slide, bundle)
    with slide:
        with parts.time("mask"):
            scope = find_scope(slide, AUTO, readers, bundle.example_window, bundle.manifest.name)
        plan = lay_windows(grid, bundle, scope.searched)
        with parts.time("read and cut"):
            kept, around = cut_all(grid, plan, backend, readers)
        if not kept:
            raise SlideError(f"{path}: fewer than {backend.batch} windows hold tissue; choose a larger slide")
        network = backend
        if isinstance(backend, Chain):
            network, contexts = backend.fine, len(plan.layers[1].windows)
            features = backend.name_features(time_network(backend.context, around, contexts, "context", parts))
            kept = [{**windows, **features} for windows in kept]
        outputs = time_network(network, kept, len(plan.windows), "infer", parts)
        map_size = choose_map_size(grid, bundle, None)
        manifest = bundle.segmentation
        with MapFile(folder / "map.raw", len(manifest.classes), *map_size[::-1], manifest.contoured) as file:
            place = MapWriter(file, scope.tissue).place
            canvas = Canvas(plan, manifest.output_stride, map_size, place, manifest.contoured)
            with parts.time("stitch"):
                for start in range(0, len(plan.windows), backend.batch):
                    indices = np.arange(start, min(start + backend.batch, len(plan.windows)))
                    canvas.add(indices, {name: values[: len(indices)] for name, values in outputs.items()})
                canvas.finish()
        (folder / "map.raw").unlink(missing_ok=True)


def cut_all(grid: GridReader, plan: Plan, backend: Backend, readers: int) -> tuple[list[Batch], list[Batch]]:
    """Read and cut every window; some full batches of them are kept, and some of the surroundings that a chain has."""
    size, kept, around = backend.batch, list[Batch](), list[Batch]()
    with ThreadPoolExecutor(readers) as pool:
        if isinstance(backend, Chain):
            fine, context = plan.layers
            for _, pixels in cut_layer(grid, context, size, pool, readers, Clock()):
                if len(around) * size < BARE_WINDOWS:
                    around.append({context.input.name: pixels})
            cut = cut_layer(grid, fine, size, pool, readers + -(-WINDOWS_AHEAD // size), Clock())
            batches: Iterable[tuple[Indices, Batch]] = (
                (indices, {fine.input.name: pixels, **tell_places(plan, indices, size)}) for indices, pixels in cut
            )
        else:
            batches = cut_batches(grid, plan, size, pool, readers, Clock())
        for indices, windows in batches:
            if len(indices) == size and len(kept) * size < BARE_WINDOWS:
                kept.append(windows)
    return kept, around


def time_network(
    backend: Backend, kept: Sequence[Batch], windows: int, part: str, parts: Parts
) -> Mapping[str, NDArray[Any]]:
    """Time some batches as a part of so many windows, and return what the network gives for the last of them."""
    times = math.ceil(windows / backend.batch) / len(kept)
    batches = [(np.arange(backend.batch), each) for each in kept]
    with parts.time(part, times), ThreadPoolExecutor(backend.streams) as pool:
        *_, (_, outputs) = infer_batches(backend, batches, pool, Clock())
    return outputs


class Case(NamedTuple):
    """One way to call `score`: threads of the network, 0 being all, readers, and how often an array in memory holds the
    slide's pixels, 0 being the file itself.
    """

    what: str
    threads: int = 0
    readers: int = DEFAULT_READERS
    area: int = 0


CASES = (
    Case("1 thread", threads=1),
    Case("2 threads", threads=2),
    Case("1 reader", readers=1),
    Case("2 readers", readers=2),
    Case("4 readers", readers=4),
    Case("its area once", area=1),
    Case("its area 4 times", area=4),
)


def measure_scaling(
    path: Path, bundle: Bundle, like: Backend, repeats: int, progress: Progress, cases: Sequence[Case] = CASES
) -> list[Report]:
    """Rows of `score` through runtimes like one that was opened, a row a case; they take turns, the first warms up.

    Threads and readers are tried on the file; areas on arrays in memory that hold its pixels, or those around the
    tissue of a large slide, once and more often. Raises GlassError if what is found on the file differs by over 1 %.
    """
    pixels = read_region(path, bundle)
    runs: dict[Case, list[float]] = {case: [] for case in cases}
    windows: dict[Case, int] = {}
    glands: list[float] = []
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        backends = {}
        for threads in {case.threads for case in cases}:
            backends[threads] = open_backend(bundle, like.name, like.batch, threads, like.precision, throughput=True)
            stack.callback(backends[threads].close)
        for repeat in range(repeats + 1):
            for case in cases:
                progress(f"{case.what}, {repeat} of {repeats}")
                with open_case(case, path, pixels, bundle) as slide:
                    start = time.perf_counter()
                    result = score(slide, bundle, Path(folder, "out"), backends[case.threads], readers=case.readers)
                    runs[case].append(time.perf_counter() - start)
                windows[case] = result.windows["run"]
                if not case.area:
                    glands.append(sum(found.area_mm2 for found in list(result.classes.values())[1:]))
                    if abs(glands[-1] - glands[0]) > 0.01 * glands[0]:
                        raise GlassError(f"{path}: {case.what} gave other areas; its speed means nothing")
    return [
        {
            "name": case.what,
            "unit": "s",
            "runs": runs[case][1:],
            "windows_per_s": windows[case] / statistics.median(runs[case][1:]),
        }
        for case in cases
    ]


def open_case(case: Case, path: Path, pixels: NDArray[np.uint8], bundle: Bundle) -> Slide:
    """The slide of a case: the file, or an array of its pixels."""
    return ArraySlide(np.tile(pixels, (case.area, 1, 1)), bundle.manifest.mpp) if case.area else open_slide(path)


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
