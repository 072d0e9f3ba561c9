"""Slides that lie elsewhere, copied while those before them are scored."""

import contextlib
import queue
import threading
from collections.abc import Sequence
from pathlib import Path

from glassrt.engine.errors import GlassError
from glassrt.engine.production.copies import Copies
from glassrt.engine.production.places import is_address
from glassrt.engine.production.wire import Order, Setup

THREADS = 2


class Ahead:
    """Copies of what will be scored next, in the folder where workers look for them."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._seen: set[str] = set()
        self._asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def come(self, orders: Sequence[Order]) -> None:
        """These come next. What cannot be copied is told of when it is scored."""
        for order in orders:
            if order.id not in self._seen and (self._setup.stage or is_address(order.path)):
                self._seen.add(order.id)
                self._asked.put(order.path)
        while self._seen and len(self._threads) < THREADS:
            # A daemon: what it copies must not keep a batch that was stopped from ending.
            self._threads.append(threading.Thread(target=self._copy, daemon=True))
            self._threads[-1].start()

    def _copy(self) -> None:
        with contextlib.suppress(GlassError):
            copies = Copies(Path(self._setup.cache), self._setup.cache_bytes)
            while True:
                address = self._asked.get()
                with contextlib.suppress(GlassError), copies.hold(address):
                    pass
