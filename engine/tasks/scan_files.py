"""The files of a slide that was scanned: those of a finished one."""

import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.files import output_errors, write_json
from glassrt.engine.geometry.boxes import Indices, Size
from glassrt.engine.geometry.coverage import holds_tissue
from glassrt.engine.geometry.plan import Plan
from glassrt.engine.results.figures import Result, summarise
from glassrt.engine.results.origin import RESULT
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.push import PushSlide
from glassrt.engine.slides.tissue.annotations import ALL, AUTO
from glassrt.engine.slides.tissue.masks import Mask
from glassrt.engine.slides.tissue.scope import Scope, Tissue, read_given
from glassrt.engine.tasks.scan_map import Callbacks, ScanMap, choose_windows
from glassrt.engine.tasks.segmentation import write_outputs
from glassrt.engine.tasks.spill import Spill
from glassrt.engine.watch import Clock

SILENT = Callbacks(lambda tile: None, lambda region, feature: None)


class ScanFiles(NamedTuple):
    """What the files are made of beside the map: `out` is where they will lie, `folder` where they are written before,
    `request` the digest of all that was asked for, which began at `start`.
    """

    slide: PushSlide
    bundle: Bundle
    backend: Backend
    map_size: Size
    out: Path
    folder: Path
    clock: Clock
    request: str
    start: float

    def keep_tissue(self, before: ScanMap, spill: Spill, scope: Scope) -> ScanMap:
        """The map again, of those windows alone that would have been run had the tissue been known. `close` it."""
        known = np.isin(np.arange(len(before.plan.windows)), [*spill])
        plan, chosen = choose_windows(before.plan, scope.searched, known)
        with output_errors(self.out, self.folder):
            again = ScanMap(
                self.folder / "kept", self.slide, self.bundle, plan, self.map_size, scope.tissue, SILENT,
                lambda indices: 0.0, lambda work: work(),
            )  # fmt: skip
            for number, index in enumerate(chosen.tolist()):
                again.put(number, again.read(spill.get(index)))
        return again

    def write(self, done: ScanMap, scope: Scope, lost: int, counted: bool) -> Result:
        """Write them all; `lost` windows were not analysed, and are still `counted` as windows of the map's plan."""
        if lost:
            scope = scope.warn(f"{lost} windows were not analysed: tiles under them never came")
        done.writer.finish()
        with self.clock.time("write"), output_errors(self.out, self.folder):
            counts = write_outputs(self.folder, self.slide, self.bundle, done.file, scope.thumbnail, done.prepare())
            self.clock.seconds["total"] = time.perf_counter() - self.start
            result = summarise(
                self.slide, self.bundle, self.backend, scope, done.plan, done.writer, counts, self.clock, self.request,
                done.evidence.scores() if done.evidence else None,
            )  # fmt: skip
            if counted and lost:
                windows = {"run": result.windows["run"] - lost, "skipped": result.windows["skipped"] + lost}
                result = msgspec.structs.replace(result, windows=windows)
            write_json(self.folder / RESULT, result)
        return result


def touches(plan: Plan, indices: Indices, mask: Mask) -> NDArray[np.bool_]:
    """Which of these windows touch a mask."""
    fine = plan.fine
    return holds_tissue(mask, fine.boxes(fine.windows[indices]) / np.array([*fine.size, *fine.size]))


def find_searched(scope: Scope | None, tissue: Tissue, slide: PushSlide) -> Mask | None:
    """The mask of what windows have to touch, as far as it is known before the first tile. Raises SlideError."""
    if scope is not None:
        return scope.searched
    if isinstance(tissue, str) and tissue in (AUTO, ALL):
        return None
    return read_given(tissue, slide)
