"""A slide that a client scans: its session, what it tells, its memory, and whether its client is there."""

import asyncio
import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from glassrt.engine.errors import GlassError, SlideError, UsageError, first_line
from glassrt.engine.service.beginning import Begin
from glassrt.engine.service.events import EventLog, describe_tile
from glassrt.engine.service.memory import SealedMemory
from glassrt.engine.service.metrics import Figures
from glassrt.engine.service.models import Model
from glassrt.engine.service.refusals import LOGGER, Refused, busy
from glassrt.engine.slides.slide import Overview
from glassrt.engine.system import give_back

if TYPE_CHECKING:
    from glassrt.engine.maps.regions import Region
    from glassrt.engine.slides.push import PushSlide, Tile
    from glassrt.engine.tasks.scan import Progress, ScanSession
    from glassrt.engine.tasks.scan_map import MapTile

State = Literal["open", "finishing", "finished", "failed", "cancelled"]
RUNS: tuple[State, ...] = ("open", "finishing")
PROGRESS_EVERY_S = 0.25
MOST_PUSHES = 4  # of one session at once


class Scan:
    """One session. Thread-safe; it raises Refused besides what `ScanSession` does."""

    def __init__(self, told: Begin, slide: "PushSlide", model: Model, folder: Path, figures: Figures) -> None:
        self.id = secrets.token_hex(8)
        self.told, self.folder = told, folder
        self.size = slide.levels[0].size
        self._slide: PushSlide | None = slide
        self.state: State = "open"
        self.error = ""
        self.events = EventLog()
        self.progress: dict[str, int] = {}
        self.memory: SealedMemory | None = None
        self.used = self.begun = time.monotonic()
        self.ended = 0.0
        self.turns = asyncio.Semaphore(MOST_PUSHES)  # of the event loop
        self.held = False  # by a lease
        self._model, self._figures = model, figures
        self._session: ScanSession | None = None
        self._lock = threading.RLock()
        self._told_progress = 0.0
        if not told.overview:
            self.open(None)

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.state in RUNS

    def open(self, overview: Overview | None) -> None:
        """Open the session, with a picture of the whole slide. Raises as `ScanSession`."""
        from glassrt.engine.tasks.scan import ScanSession

        with self._lock:
            self._check_open()
            if self._session is not None or self._slide is None:
                raise Refused(409, "tiles are taken already: an overview comes first, and was to be announced")
            told = self.told
            self._session = ScanSession(
                self._model.bundle, self._slide, self.folder, overview, self._model.share(told.backend, told.precision),
                map_mpp=told.map_mpp, tissue=told.tissue, patience_s=told.patience_ms / 1000,
                most_backlog=told.backlog, on_map=self._mapped, on_region=self._found, on_progress=self._advanced,
            )  # fmt: skip

    def push(self, tile: "Tile", timeout_s: float) -> None:
        """Hand a tile in. Raises SlideError for a bad one."""
        from glassrt.engine.tasks.scan import Busy

        with self._lock:
            self._check_open()
            session = self._session
        if session is None:
            raise Refused(409, "the overview that was announced has not come")
        try:
            session.push(*tile, timeout_s)
        except Busy as error:
            self._figures.tile("busy")
            raise busy(first_line(error)) from error
        except Exception as error:
            self._check_open()
            if isinstance(error, SlideError) and session.error is None:
                self._figures.tile("refused")
                raise
            self._fail(error)
            self._check_open()
        self._figures.tile("taken")

    def finish(self) -> bytes:
        """Write the results; what `result.json` says."""
        with self._lock:
            self._check_open()
            if (session := self._session) is None:
                raise Refused(409, "the overview that was announced has not come")
            self.state = "finishing"
        try:
            result = msgspec.json.encode(session.finish())
        except Exception as error:
            if not self._fail(error):
                self._check_open()
            if isinstance(error, SlideError | UsageError):
                raise Refused(409, first_line(error)) from error
            if isinstance(error, GlassError):
                raise
            raise Refused(500, self.error) from error
        if not self._end("finished", "", result):
            shutil.rmtree(self.folder, ignore_errors=True)  # it was cancelled meanwhile
            self._check_open()
        return result

    def cancel(self, why: str) -> None:
        """End it and leave nothing; harmless when it has ended."""
        if self._end("cancelled", why, msgspec.json.encode({"error": why})):
            LOGGER.info("%s: cancelled: %s", self.told.name, why)

    def stop(self, wait_s: float) -> None:
        """End it as the server does, unless its results are written within so many seconds."""
        until = time.monotonic() + wait_s
        while self.state == "finishing" and time.monotonic() < until:
            time.sleep(0.02)
        self.cancel("the server has ended")

    def look(self) -> None:
        """Notice what went wrong inside."""
        error = self._session.error if self._session else None
        if self.runs and isinstance(error, Exception):
            self._fail(error)

    def share_memory(self, size: int) -> SealedMemory:
        """Make its memory, once."""
        with self._lock:
            self._check_open()
            if self.memory is not None:
                raise Refused(409, f"the session has its memory at {self.memory.path}")
            self.memory = SealedMemory(size)
            return self.memory

    def hold(self) -> None:
        """Its client is there."""
        with self._lock:
            self._check_open()
            if self.held:
                raise Refused(409, "another client holds the session")
            self.held = True

    def let_go(self) -> None:
        """Its client has gone; what is being finished for it is finished."""
        self.held, self.used = False, time.monotonic()
        if self.told.lease and self.state == "open":
            threading.Thread(target=self.cancel, args=("its client has gone",), daemon=True).start()

    def describe(self) -> dict[str, Any]:
        """How far it is."""
        return {"id": self.id, "state": self.state, "progress": self.progress, "error": self.error}

    def _check_open(self) -> None:
        if self.state != "open":
            raise Refused(409, f"the session is {self.state}{f': {self.error}' if self.error else ''}")

    def _fail(self, error: Exception) -> bool:
        line = first_line(error)
        if not isinstance(error, GlassError):
            LOGGER.error("unexpected error in a session", exc_info=error)
            line = f"unexpected error ({type(error).__name__}: {line})"
        return self._end("failed", line, msgspec.json.encode({"error": line}))

    def _end(self, state: State, error: str, data: bytes) -> bool:
        """Whether it had not ended before."""
        with self._lock:
            if not self.runs:
                return False
            session, memory, self._session = self._session, self.memory, None
            self.ended, self._slide = time.monotonic(), None
            self.state, self.error = state, error
        try:
            if session is not None and state != "finished":
                session.cancel()
        except Exception as unexpected:
            LOGGER.error("unexpected error in a session", exc_info=unexpected)
        if memory is not None:
            memory.close()
        give_back()
        self._tell_progress()
        self.events.add(state, data)  # type: ignore[arg-type]  # of those that end a session
        self._figures.ended(state)
        return True

    def _mapped(self, tile: "MapTile") -> None:
        self._figures.mapped(tile.lag_s)
        self.events.add("map", describe_tile(tile))

    def _found(self, region: "Region", feature: str) -> None:
        self.events.add("region", " ".join(feature.splitlines()).encode())

    def _advanced(self, progress: "Progress") -> None:
        self.progress = progress._asdict()
        if time.monotonic() - self._told_progress > PROGRESS_EVERY_S:
            self._tell_progress()

    def _tell_progress(self) -> None:
        self._told_progress = time.monotonic()
        if self.progress:
            self.events.add("progress", msgspec.json.encode(self.progress))
