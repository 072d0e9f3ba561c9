"""A slide that is scored while it is scanned: tiles in, maps and regions out, the same files in the end.

    from glassrt.engine import PushSlide, ScanSession, open_bundle

    slide = PushSlide([(30000, 30000)], mpp=0.5, tile_size=1024)
    with ScanSession(open_bundle(), slide, "results/slide", overview=picture, on_map=show) as session:
        for x, y, pixels in scanner:
            session.push(0, x, y, pixels)
        result = session.finish()

Memory follows the front of the scan, not the slide's size.
"""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import UsageError
from glassrt.engine.files import output_errors, replace_folder
from glassrt.engine.flow.arriving import ArrivingRunner, Came
from glassrt.engine.flow.front import Front, Unit
from glassrt.engine.geometry.plan import Plan
from glassrt.engine.maps.regions import Region
from glassrt.engine.results.figures import Result
from glassrt.engine.results.origin import RESULT, refuse_other
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.glimpse import Glimpse
from glassrt.engine.slides.handed import Order, Tile
from glassrt.engine.slides.push import PushSlide
from glassrt.engine.slides.slide import Overview, Pixels, show_whole
from glassrt.engine.slides.tissue.annotations import AUTO
from glassrt.engine.slides.tissue.scope import Scope, Tissue, find_scope, tissue_is
from glassrt.engine.tasks.request import make_request
from glassrt.engine.tasks.scan_files import ScanFiles, find_searched, touches
from glassrt.engine.tasks.scan_map import (
    Busy,
    Callbacks,
    Cancelled,
    MapTile,
    Progress,
    ScanMap,
    as_told,
    shows_stain,
    take,
)
from glassrt.engine.tasks.segment import lay_windows
from glassrt.engine.tasks.segmentation import choose_map_size, doubt_map, open_grid
from glassrt.engine.tasks.spill import Spill
from glassrt.engine.watch import Clock

__all__ = ["MOST_BACKLOG", "PATIENCE_S", "Busy", "MapTile", "Progress", "ScanSession"]

PATIENCE_S = 0.005
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

        One at a time, from threads of the session, `on_map` is called with finished parts of the map, `on_region` with
        regions and their GeoJSON features, `on_progress` with how far it is; what they raise ends the session.
        They may `cancel` it, and neither `push` nor `finish`.

        Raises UsageError for a bundle that is not of segmentation, and what `score` raises.
        """
        if most_backlog < 0 or not patience_s >= 0:
            raise UsageError(f"a backlog of {most_backlog} windows, patience of {patience_s} s: neither is below 0")
        if bundle.segmentation.kind != "segmentation":
            raise UsageError(f"{bundle.path} is not of segmentation: slides are scored with it once they are whole")
        self._start, self._clock = time.perf_counter(), Clock()
        self._bundle, self._slide, self._out, self._tissue = bundle, slide, Path(out), tissue
        self._most_backlog, self._told = most_backlog, on_progress
        self._tiles = self._windows = self._pushing = 0
        self._change, self._ended, self._finishing, self._over = threading.Condition(), "", False, False
        self._failure: BaseException | None = None
        self._telling = threading.RLock()  # one listener at a time
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
            windows = lay_windows(self._grid, bundle, find_searched(self._scope, tissue, slide))
            check = replace_folder(self._out, RESULT, lambda: refuse_other(self._out, None))
            self._folder = self._stack.enter_context(check)
            with output_errors(self._out, self._folder):
                self._open(windows, Callbacks(on_map, on_region, self._telling), patience_s)
        except BaseException as error:
            self._abandon(error)
            raise

    def _open(self, windows: Plan, callbacks: Callbacks, patience_s: float) -> None:
        slide, scope = self._slide, self._scope
        tissue = scope.tissue if scope else np.ones((1, 1), np.bool_)
        self._map = ScanMap(
            self._folder / "scan", slide, self._bundle, windows, self._map_size, tissue, callbacks,
            lambda indices: float(self._arrived[indices].max()),
            lambda work: self._runner.later(output_errors(self._out, self._folder)(work)),
        )  # fmt: skip
        self._stack.callback(self._map.close)
        self._arrived = np.zeros(len(windows.windows))
        self._spill = None if scope else Spill(self._folder / "windows.raw")
        if self._spill:
            self._stack.callback(self._spill.close)
        self._glimpse = None if scope else Glimpse(slide, self._grid.level)
        self._front = Front(slide, self._grid, windows, self._begin, self._glimpse.add if self._glimpse else None)
        shows = shows_stain if scope is None and tissue_is(self._tissue, AUTO) else None
        self._runner = ArrivingRunner(
            self._grid, windows, self._backend, output_errors(self._out, self._folder)(self._take),
            self._advance, self._front.release, shows, patience_s, self._clock,
        )  # fmt: skip
        self._stack.callback(self._runner.stop)
        slide.hand_to(self._push)

    def push(
        self, level: int, x: int, y: int, tile: NDArray[np.uint8] | bytes, order: Order = "rgb",
        timeout_s: float | None = None,
    ) -> None:  # fmt: skip
        """Take a tile as `PushSlide.push`, from any thread; wait while too many windows do, for `timeout_s` at most.

        Raises Busy where that was not enough; SlideError for a tile that is none, after which the session goes on; and
        what has ended the session.
        """
        self._push(Tile(level, x, y, tile, order), timeout_s)

    def _push(self, tile: Tile, timeout_s: float | None) -> None:
        arrived = time.perf_counter()
        with self._change:
            self._refuse_ended()
            self._pushing += 1
        try:
            free = self._runner.wait(self._most_backlog, timeout_s)
            if self._runner.error is not None:
                raise as_told(self._runner.error, self._slide.name)
            if not free:
                raise Busy(f"{self._slide.name}: over {self._most_backlog} windows wait: push the tile again")
            self._slide.put(tile, arrived)
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
            self._ended, self._finishing = "it is finished", True
        try:
            with self._change:
                self._change.wait_for(lambda: not self._pushing)
            result = self._finish()
            self._refuse_failed()
            self._runner.stop()
            self._stack.close()
        except BaseException as error:
            self._abandon(error)
            raise
        self._end()
        return result

    @property
    def error(self) -> BaseException | None:
        """What has ended the session, if anything went wrong in it."""
        return self._failure or self._runner.error

    def cancel(self) -> None:
        """End the session and leave nothing, also while another thread finishes it, which then raises Cancelled; of one
        that is finished already the files stay. Harmless when done twice. In a listener it takes effect when the call
        that waits, or leaves the session, goes on.
        """
        with self._change:
            if self._over:
                return
            self._ended = "it was cancelled"
        self._runner.fail(Cancelled(f"{self._slide.name}: the session was cancelled"))
        if self._runner.is_mine:
            return
        with self._change:
            self._change.wait_for(lambda: self._over or not (self._finishing or self._pushing))
        if not self._over:
            self._abandon(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def _refuse_ended(self) -> None:
        if self._runner.is_mine:
            raise UsageError(f"{self._slide.name}: a listener may cancel the session, not push or finish")
        if self._failure is not None and not isinstance(self._failure, Cancelled):
            raise as_told(self._failure, self._slide.name)
        if self._ended:
            raise UsageError(f"{self._slide.name}: no session any more: {self._ended}")

    def _refuse_failed(self) -> None:
        if self._runner.error is not None:
            raise as_told(self._runner.error, self._slide.name)

    def _abandon(self, failure: BaseException | None) -> None:
        """Leave nothing: the folder is removed as after a failure."""
        self._failure = failure
        error = Cancelled()
        with suppress(Cancelled):
            self._stack.__exit__(Cancelled, error, None)
        self._end()

    def _end(self) -> None:
        self._slide.close()
        with self._change:
            self._over, self._finishing = True, False
            self._change.notify_all()

    def _advance(self) -> None:
        with self._telling:
            self._told(self.progress)

    def _begin(self, unit: Unit) -> None:
        self._arrived[unit.indices] = unit.arrived
        self._runner.submit(unit)

    def _take(self, came: Came) -> None:
        with self._clock.time("stitch"):
            take(came, self._map, self._spill)
        self._windows += len(came.indices)

    def _find_scope(self, overview: Overview) -> Scope:
        bundle = self._bundle
        with self._clock.time("tissue"):
            found = find_scope(self._slide, self._tissue, 1, bundle.example_window, bundle.manifest.name, overview)
        return found.warn(*doubt_map(self._slide, bundle, self._map_size))

    def _finish(self) -> Result:
        whole, lost = self._front.give_up()
        self._arrived[lost] = time.perf_counter()
        for unit in whole:
            self._begin(unit)
        self._runner.drop(lost)
        self._runner.drain()
        self._refuse_failed()
        files = ScanFiles(
            self._slide, self._bundle, self._backend, self._map_size, self._out, self._folder, self._clock,
            self._request.digest, self._start,
        )  # fmt: skip
        scope, done = self._scope, self._map
        if self._glimpse is not None and self._spill is not None:
            scope = self._find_scope(self._glimpse.finish())
            done = files.keep_tissue(self._map, self._spill, scope)
            self._stack.callback(done.close)
            lost = lost[touches(self._map.plan, lost, scope.searched)]
        assert scope is not None
        return files.write(done, scope, len(lost), counted=self._glimpse is None)
