"""The sessions of a server: how many there are at once, what they are called, and when one is given up."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

from glassrt.engine.service.beginning import Begin, check_name, make_slide
from glassrt.engine.service.metrics import Figures
from glassrt.engine.service.models import Models
from glassrt.engine.service.refusals import LOGGER, Refused, busy
from glassrt.engine.service.scanning import Scan
from glassrt.engine.service.settings import Settings

KEPT, KEPT_S = 16, 600.0  # sessions that have ended and are still told of, and for how long
IDLE_S = 3600.0  # without a request
UNHELD_S = 30.0  # for a client to come back for its lease
ENDING_S, FINISHING_S = 5.0, 3.0


class Sessions:
    """All sessions by id. Thread-safe; raises Refused."""

    def __init__(self, settings: Settings, models: Models, figures: Figures) -> None:
        self._settings, self._models, self._figures = settings, models, figures
        self._scans: dict[str, Scan] = {}
        self._beginning: set[str] = set()  # names
        self._lock = threading.Lock()
        self._closed = False

    def begin(self, told: Begin) -> Scan:
        """Open a session. Raises also what `ScanSession` and `PushSlide` do."""
        model = self._models.find(told.bundle)
        slide = make_slide(told, self._settings)
        check_name(told.name, self._settings.out)
        name = told.name.casefold()
        with self._lock:
            if self._closed:
                raise Refused(503, "the server is ending")
            running = [scan.told.name.casefold() for scan in self._scans.values() if scan.runs]
            if name in running or name in self._beginning:
                raise Refused(409, f"a session with the name {told.name[:60]!r} is open")
            if len(running) + len(self._beginning) >= self._settings.sessions:
                raise busy(f"{self._settings.sessions} sessions are open; try again when one has ended")
            self._beginning.add(name)
        try:
            scan = Scan(told, slide, model, self._settings.out / told.name, self._figures)
            self._figures.began()
            with self._lock:
                self._scans[scan.id] = scan
        finally:
            with self._lock:
                self._beginning.discard(name)
        if self._is_closed():
            scan.cancel("the server is ending")
        self._forget()
        return scan

    def find(self, id: str) -> Scan:
        """A session."""
        with self._lock:
            scan = self._scans.get(id)
        if scan is None:
            raise Refused(404, f"no session {id[:40]!r}")
        scan.used = time.monotonic()
        return scan

    def drop(self, scan: Scan) -> None:
        """Cancel a session, or forget one that has ended."""
        if scan.runs:
            scan.cancel("its client cancelled it")
        else:
            with self._lock:
                self._scans.pop(scan.id, None)

    def look(self) -> None:
        """Give up what its client has left. Called every second."""
        with self._lock:
            scans = [scan for scan in self._scans.values() if scan.runs]
        self._forget()
        now = time.monotonic()
        for scan in scans:
            scan.look()
            if scan.told.lease and not scan.held and now - max(scan.begun, scan.used) > UNHELD_S:
                scan.cancel("its client has not held it")
            elif not scan.held and scan.state == "open" and now - scan.used > IDLE_S:
                scan.cancel(f"nothing was heard of its client for {IDLE_S:.0f} s")

    def close(self) -> None:
        """Cancel all sessions; one that does not end soon is left."""
        with self._lock:
            self._closed = True
            scans = [scan for scan in self._scans.values() if scan.runs]
        if not scans:
            return
        threads = ThreadPoolExecutor(len(scans))
        _, late = wait([threads.submit(scan.stop, FINISHING_S) for scan in scans], ENDING_S)
        if late:
            LOGGER.warning("%d sessions did not end in time", len(late))
        threads.shutdown(wait=False)

    def _is_closed(self) -> bool:
        return self._closed

    def _forget(self) -> None:
        with self._lock:
            ended = [scan for scan in self._scans.values() if not scan.runs]
            for number, scan in enumerate(ended):
                late = time.monotonic() - max(scan.ended, scan.used) > KEPT_S
                if late or number < len(ended) - KEPT:
                    del self._scans[scan.id]
