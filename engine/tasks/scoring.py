"""One slide into a folder of its own, whatever the kind of its bundle."""

import contextlib
import time
from pathlib import Path

import msgspec

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import UsageError
from glassrt.engine.files import output_errors, replace_folder, write_json
from glassrt.engine.results.figures import Result
from glassrt.engine.results.origin import RESULT, refuse_other
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.slide import Overview, Pixels, Slide, show_whole
from glassrt.engine.slides.tissue.annotations import AUTO
from glassrt.engine.slides.tissue.scope import Tissue
from glassrt.engine.tasks.bags import BagSlide
from glassrt.engine.tasks.classify import ClassifySlide
from glassrt.engine.tasks.dual import DualSlide
from glassrt.engine.tasks.request import make_request
from glassrt.engine.tasks.segment import DEFAULT_READERS
from glassrt.engine.tasks.segmentation import SegmentSlide
from glassrt.engine.tasks.work import Task, Work
from glassrt.engine.watch import Clock, Progress, Watch

TASKS: dict[str, type[Task]] = {  # by kind of bundle
    "segmentation": SegmentSlide,
    "dual": DualSlide,
    "classification": ClassifySlide,
    "mil": BagSlide,
}


def score(
    slide: Slide,
    bundle: Bundle,
    out: Path | str,
    backend: Backend | str = "auto",
    map_mpp: float | None = None,
    readers: int = DEFAULT_READERS,
    progress: Progress = lambda done, total: None,
    precision: str = "auto",
    tissue: Tissue = AUTO,
    overview: Overview | Pixels | None = None,
) -> Result:
    """Score one slide into the folder `out`, which appears whole or not at all, and return its figures.

    Writes `result.json`, `map.ome.tif`, `regions.geojson` and `overlay.png`, of tiles that are classified `tiles.csv`
    too, and for bags of tiles `features.h5`, `attention.png` and `top_tiles.png`, in place of an older result of the
    same slide. `map_mpp` is the map's pixel size in micrometres (by default a quarter of a logit's), `backend` a name
    or an opened one, which stays open and has its own precision; `auto` is the fastest that the bundle was verified
    for. `tissue` is `auto` (found by colour and grain), `all`, the path of a mask (PNG, TIFF, or GeoJSON as QuPath
    writes it) or a mask `[H, W]` in the slide's proportions. An `overview`, RGB `[h, w, 3]` of the whole slide or with
    the frame that it shows, is where tissue is looked for in place of the slide, as in a scanner's picture while it
    scans. Raises SlideError, BackendUnavailable, OutputError or UsageError.
    """
    start, clock = time.perf_counter(), Clock()
    with contextlib.ExitStack() as stack:
        if isinstance(backend, str):
            with clock.time("load"):
                backend = open_backend(bundle, backend, precision=precision, throughput=True)
            stack.callback(backend.close)
        refuse_part(bundle, backend)
        seen = show_whole(overview, slide)
        request = make_request(slide, bundle, backend, map_mpp, tissue, seen)
        work = Work(request, slide, bundle, backend, tissue, readers, Watch(progress, clock), seen)
        return score_work(work, Path(out), start)


def refuse_part(bundle: Bundle, backend: Backend) -> None:
    """Raise UsageError for a backend with one of a bundle's several networks."""
    if len(backend.inputs) != len(bundle.manifest.whole.inputs):
        raise UsageError(
            f"{bundle.path} is scored with all its networks, the backend has one alone: open it without a role"
        )


def score_work(work: Work, out: Path, start: float) -> Result:
    """Do a piece of work into the folder `out`, which appears whole or not at all; it began at `start`. As `score`."""
    task = TASKS[work.bundle.segmentation.kind](work)
    with replace_folder(out, RESULT, lambda: refuse_other(out, work.slide.path)) as folder:
        result = task.run(folder, out)
        work.watch.clock.seconds["total"] = time.perf_counter() - start
        result = msgspec.structs.replace(result, seconds=dict(work.watch.clock.seconds))
        output_errors(out)(write_json)(folder / RESULT, result)
    return result
