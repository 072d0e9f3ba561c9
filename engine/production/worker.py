"""A process that scores the slides it is told to, one after another: `python -m glassrt.engine.production.worker`.

Whatever a slide does to it, a crash, a hang, all memory taken, is over with the process. It is told on standard input
and tells on standard output; where the one that leads is gone, it ends at once.
"""

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from glassrt.engine.bundles.bundle import Bundle, open_bundle
from glassrt.engine.errors import BundleError, GlassError, OutputError, SlideError
from glassrt.engine.production.copies import Copies
from glassrt.engine.production.places import is_address
from glassrt.engine.production.scoring import Fault, Job, score_path
from glassrt.engine.production.wire import Advanced, Done, Failed, Order, Setup, Told, receive, send
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.system import find_in_c, give_back, keep_to
from glassrt.engine.watch import Progress

DIES_WITH_PARENT = 1  # linux/prctl.h
EVERY_S = 0.2  # between what is told of a slide's windows
KEPT = 2  # runtimes that stay loaded, of as many bundles


class Worker:
    """Scores slides with the runtimes that it keeps loaded; `opened` are such by the paths of their bundles and their
    identities.
    """

    def __init__(
        self, setup: Setup, tell: Callable[[Told], None], opened: Mapping[str, tuple[Bundle, Backend]] | None = None
    ) -> None:
        self._setup, self._tell = setup, tell
        self._runtimes = dict(opened or {})
        self._copies: Copies | None = None

    def score(self, order: Order) -> None:
        """Score a slide and tell what came of it."""
        try:
            self._tell(self._score(order))
        except GlassError as error:  # of the bundle, the runtime or the output: every slide's, unless they are its own
            alone = order.own and not isinstance(error, OutputError)
            self._tell(Failed(order.id, str(error), "options" if alone else "output", fatal=not alone))

    def close(self) -> None:
        """Close the runtimes; harmless when done twice."""
        while self._runtimes:
            self._runtimes.popitem()[1][1].close()

    def _score(self, order: Order) -> Told:
        bundle, backend = self._open(order)
        job = Job(bundle, backend, order.mpp, order.map_mpp, self._setup.readers, order.tissue)
        given = order.path if is_address(order.path) else Path(order.path)
        try:
            with self._at_hand(given, lambda: self._tell(Advanced(order.id, 0, 0))) as path:
                found = score_path(path, given, Path(order.folder), job, self._progress(order.id))
        except SlideError as error:
            return Failed(order.id, str(error), "fetching")
        return Failed(order.id, found.error, found.reason) if isinstance(found, Fault) else Done(order.id)

    def _at_hand(self, given: Path | str, alive: Callable[[], None]) -> AbstractContextManager[Path]:
        """The slide itself, or a copy of what lies elsewhere; `alive` is called while that comes. Raises SlideError and
        OutputError.
        """
        if isinstance(given, Path) and not self._setup.stage:
            return nullcontext(given)
        if self._copies is None:
            self._copies = Copies(Path(self._setup.cache), self._setup.cache_bytes)
        return self._copies.hold(str(given), alive)

    def _open(self, order: Order) -> tuple[Bundle, Backend]:
        path, setup = f"{order.bundle} {order.identity}", self._setup
        if path not in self._runtimes:
            while len(self._runtimes) >= KEPT:
                self._runtimes.pop(next(iter(self._runtimes)))[1].close()
            bundle = open_bundle(Path(order.bundle)).replace(setup.scales, setup.flip)
            if bundle.sha256 != order.identity:
                raise BundleError(f"{order.bundle}: is another one than when the batch began, or than where it is led")
            backend = open_backend(bundle, order.backend, order.batch, setup.threads, order.precision, throughput=True)
            self._runtimes[path] = bundle, backend
        return self._runtimes[path]

    def _progress(self, id: str) -> Progress:
        told = -EVERY_S

        def advance(done: int, total: int) -> None:
            nonlocal told
            now = time.monotonic()
            if now - told >= EVERY_S or done == total:
                told = now
                self._tell(Advanced(id, done, total))

        return advance


def main() -> None:
    """Score what comes until nothing does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that leads decides
    if prctl := find_in_c("prctl"):
        prctl(DIES_WITH_PARENT, signal.SIGKILL)  # also where a library keeps all threads from running
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between messages
    setup = receive(sys.stdin.buffer, Setup)
    if setup is None:
        return
    if setup.cores:
        keep_to(setup.cores)
    if setup.cwd:
        os.chdir(setup.cwd)
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(orders,), daemon=True).start()
    worker = Worker(setup, lambda told: send(out, told))
    while True:
        worker.score(orders.get())
        give_back()


def listen(orders: "queue.SimpleQueue[Order]") -> None:
    """Take orders; end the process, whatever it is at, where no more can come."""
    while (order := receive(sys.stdin.buffer, Order)) is not None:
        orders.put(order)
    os._exit(0)


if __name__ == "__main__":
    main()
