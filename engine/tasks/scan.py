"""A slide that is scored while it is scanned: tiles in, maps and regions out, the same files in the end.

    from glassrt.engine import PushSlide, ScanSession, Tile, open_bundle

    slide = PushSlide([(30000, 30000)], mpp=0.5, tile_size=1024)
    with ScanSession(open_bundle(), slide, "results/slide", overview=picture, on_map=show) as session:
        for x, y, pixels in scanner:
            session.push(Tile(0, x, y, pixels))
        result = session.finish()

Memory follows the front of the scan, not the slide's size.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import UsageError
from glassrt.engine.files import output_errors, replace_folder, write_json
from glassrt.engine.flow.arriving import ArrivingRunner, Came
from glassrt.engine.flow.front import Front, Unit
from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.geometry.plan import Plan
from glassrt.engine.maps.regions import Region
from glassrt.engine.results.figures import Result, summarise
from glassrt.engine.results.origin import RESULT, refuse_other
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.glimpse import Glimpse
from glassrt.engine.slides.handed import Tile
from glassrt.engine.slides.push import PushSlide
from glassrt.engine.slides.slide import Overview, Pixels, show_whole
from glassrt.engine.slides.tissue.annotations import ALL, AUTO
from glassrt.engine.slides.tissue.scope import Scope, Tissue, find_scope, tissue_is
from glassrt.engine.tasks.request import make_request
from glassrt.engine.tasks.scan_map import (
    Busy,
    Callbacks,
    Cancelled,
    MapTile,
    Progress,
    ScanMap,
    choose_windows,
    shows_stain,
    take,
)
from glassrt.engine.tasks.segment import lay_windows
from glassrt.engine.tasks.segmentation import choose_map_size, doubt_map, open_grid, write_outputs
from glassrt.engine.tasks.spill import Spill
from glassrt.engine.watch import Clock

__all__ = ["Busy", "MapTile", "Progress", "ScanSession", "Tile"]

PATIENCE_S = 0.02
MOST_BACKLOG = 256  # windows


class ScanSession:
    """Scores a slide while its tiles come. Leave it without `finish`, and nothing is left.

    With an `overview`, a picture of the whole slide or with the frame that it shows, tissue is looked for before the
    first tile, and `score(..., overview=...)` of the finished file gives the same files, to the bit. Without one,
    windows that hold any stain are run, what is told of meanwhile covers them all, and the finished files keep those
    that touch the tissue of the picture that the tiles make.
    """

    def __init__(
        self, bundle: Bundle, slide: PushSlide, out: Path | str, overview: Overview | Pixels | None = None,
        backend: Backend | str = "auto", precision: str = "auto", map_mpp: float | None = None, tissue: Tissue = AUTO,
        patience_s: float = PATIENCE_S, most_backlog: int = MOST_BACKLOG,
        on_map: Callable[[MapTile], None] = lambda tile: None,
        on_region: Callable[[Region, str], None] = lambda region, feature: None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:  # fmt: skip
        """`out`, `backend`, `precision`, `map_mpp` and `tissue` are as of `score`. A batch that is not full waits for
        `patience_s` seconds, and `push` waits while more than `most_backlog` windows do.
        One at a time, from a thread of the session, `on_map` is called with finished parts of the map, `on_region` with
        regions and their GeoJSON features, `on_progress` with how far it is; what they raise ends the session.

        Raises UsageError for a bundle that is not of segmentation, and what `score` raises.
        """
        if bundle.segmentation.kind != "segmentation":
            raise UsageError(f"{bundle.path} is not of segmentation: slides are scored with it once they are whole")
        self._start, self._clock = time.perf_counter(), Clock()
        self._bundle, self._slide, self._out, self._tissue = bundle, slide, Path(out), tissue
        self._most_backlog, self._told = most_backlog, on_progress
        self._tiles = self._windows = self._pushing = 0
        self._change, self._ended, self._over = threading.Condition(), "", False
        self._stack = ExitStack()
        try:
            if isinstance(backend, str):
                with self._clock.time("load"):
                    backend = open_backend(bundle, backend, precision=precision, throughput=True)
                self._stack.callback(backend.close)
            self._backend = backend
            self._overview = show_whole(overview, slide)
            self._request = make_request(slide, bundle, backend, map_mpp, tissue, self._overview)
            self._grid = open_grid(slide, bundle)
            self._map_size = choose_map_size(self._grid, bundle, map_mpp)
            self._scope = None if self._overview is None else self._find_scope(self._overview)
            windows = lay_windows(self._grid, bundle, self._scope.searched if self._scope else None)
            check = replace_folder(self._out, RESULT, lambda: refuse_other(self._out, None))
            self._folder = self._stack.enter_context(check)
            self._open(windows, Callbacks(on_map, on_region), patience_s)
        except BaseException:
            self._abandon()
            raise

    def _open(self, windows: Plan, callbacks: Callbacks, patience_s: float) -> None:
        slide, scope = self._slide, self._scope
        tissue = scope.tissue if scope else np.ones((1, 1), np.bool_)
        self._map = ScanMap(
            self._folder / "scan", slide, self._bundle, windows, self._map_size, tissue, callbacks, self._last_arrived
        )
        self._stack.callback(self._map.close)
        self._arrived = np.zeros(len(windows.windows))
        self._spill = None if scope else Spill(self._folder / "windows.raw")
        if self._spill:
            self._stack.callback(self._spill.close)
        self._glimpse = None if scope else Glimpse(slide, self._grid.level)
        self._front = Front(
            slide, self._grid, windows, self._begin, self._glimpse.add if self._glimpse else None
        )  # fmt: skip
        shows = shows_stain if scope is None and not tissue_is(self._tissue, ALL) else None
        self._runner = ArrivingRunner(
            self._grid, windows, self._backend, self._take, self._front.release, shows, patience_s, self._clock
        )
        self._stack.callback(self._runner.stop)

    def push(self, tile: Tile, timeout_s: float | None = None) -> None:
        """Take a tile, from any thread; wait while too many windows do, for `timeout_s` seconds at most.

        Raises Busy where that was not enough; SlideError for a tile that is none, after which the session goes on; and
        what has ended the session.
        """
        with self._change:
            self._refuse_ended()
            self._pushing += 1
        try:
            if not self._runner.wait(self._most_backlog, timeout_s):
                raise Busy(f"{self._slide.name}: over {self._most_backlog} windows wait: push the tile again")
            self._slide.push(tile)
            with self._change:
                self._tiles += 1
        finally:
            with self._change:
                self._pushing -= 1
                self._change.notify_all()

    @property
    def progress(self) -> Progress:
        """How far it is."""
        total = len(self._map.plan.windows)
        return Progress(self._tiles, self._windows, total, self._map.done, self._map.expected, self._runner.backlog)

    def finish(self) -> Result:
        """Score what has come, write the files of `score` into `out`, and return the figures. No tile comes any more.

        Windows whose pixels never came are not analysed, and a warning says how many. Raises what `score` does, and
        what has ended the session.
        """
        with self._change:
            self._refuse_ended()
            self._ended = "it is finished"
            self._change.wait_for(lambda: not self._pushing)
        try:
            result = self._finish()
            if self._runner.error is not None:
                raise self._runner.error
            self._runner.stop()
            self._stack.close()
        except BaseException:
            self._abandon()
            raise
        self._end()
        return result

    @property
    def error(self) -> BaseException | None:
        """What has ended the session, if anything went wrong in it."""
        return self._runner.error

    def cancel(self) -> None:
        """End the session and leave nothing, also while another thread finishes it, which then raises Cancelled; of one
        that is finished already the files stay. Harmless when done twice.
        """
        with self._change:
            if self._over:
                return
            finishing, self._ended = bool(self._ended), "it was cancelled"
        self._runner.fail(Cancelled(f"{self._slide.name}: the session was cancelled"))
        with self._change:
            self._change.wait_for(lambda: self._over if finishing else not self._pushing)
        if not finishing:
            self._abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def _refuse_ended(self) -> None:
        if self._ended:
            raise UsageError(f"{self._slide.name}: no session any more: {self._ended}")

    def _abandon(self) -> None:
        """Leave nothing: the folder is removed as after a failure."""
        self._ended = self._ended or "it has failed"
        error = Cancelled()
        with suppress(Cancelled):
            self._stack.__exit__(Cancelled, error, None)
        self._end()

    def _end(self) -> None:
        self._slide.close()
        with self._change:
            self._over = True
            self._change.notify_all()

    def _begin(self, unit: Unit) -> None:
        self._arrived[unit.indices] = unit.arrived
        self._runner.submit(unit)

    def _last_arrived(self, indices: Indices) -> float:
        return float(self._arrived[indices].max())

    def _take(self, came: Came) -> None:
        with self._clock.time("stitch"):
            take(came, self._map, self._spill)
        self._windows += len(came.indices)
        self._told(self.progress)

    def _find_scope(self, overview: Overview) -> Scope:
        bundle = self._bundle
        with self._clock.time("tissue"):
            found = find_scope(self._slide, self._tissue, 1, bundle.example_window, bundle.manifest.name, overview)
        return found.warn(*doubt_map(self._slide, bundle, self._map_size))

    def _finish(self) -> Result:
        whole, lost = self._front.give_up()
        for unit in whole:
            self._begin(unit)
        self._runner.drop(lost)
        self._runner.wait(0, None)
        scope, done = self._scope, self._map
        if scope is None:
            assert self._glimpse is not None
            scope = self._find_scope(self._glimpse.overview())
            done = self._keep_tissue(scope)
        elif len(lost):
            scope = scope.warn(f"{len(lost)} windows were not analysed: tiles under them never came")
        done.writer.finish()
        with self._clock.time("write"), output_errors(self._out, self._folder):
            counts = write_outputs(self._folder, self._slide, self._bundle, done.file, scope.thumbnail, done.prepare())
            result = self._summarise(scope, done, counts, len(lost))
            write_json(self._folder / RESULT, result)
        return result

    def _summarise(self, scope: Scope, done: ScanMap, counts: Sequence[int], lost: int) -> Result:
        self._clock.seconds["total"] = time.perf_counter() - self._start
        scores = done.evidence.scores() if done.evidence else None
        result = summarise(
            self._slide, self._bundle, self._backend, scope, done.plan, done.writer, counts, self._clock,
            self._request.digest, scores,
        )  # fmt: skip
        if self._scope is None or not lost:
            return result
        windows = {"run": result.windows["run"] - lost, "skipped": result.windows["skipped"] + lost}
        return msgspec.structs.replace(result, windows=windows)

    def _keep_tissue(self, scope: Scope) -> ScanMap:
        """The map again, of those windows alone that would have been run had the tissue been known."""
        assert self._spill is not None
        known = np.isin(np.arange(len(self._map.plan.windows)), [*self._spill])
        chosen_plan, chosen = choose_windows(self._map.plan, scope.searched, known)
        again = ScanMap(
            self._folder / "kept", self._slide, self._bundle, chosen_plan, self._map_size, scope.tissue,
            Callbacks(lambda tile: None, lambda region, feature: None), lambda indices: 0.0,
        )  # fmt: skip
        self._stack.callback(again.close)
        for number, index in enumerate(chosen.tolist()):
            again.put(number, again.read(self._spill.get(index)))
        return again
