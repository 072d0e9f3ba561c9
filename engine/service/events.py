"""What a session tells: numbered events that wait for a client, however slow it is, in bounded memory."""

import asyncio
import base64
import threading
import zlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

if TYPE_CHECKING:
    from glassrt.engine.tasks.scan_map import MapTile

MOST_EVENTS = 4096
MOST_BYTES = 16 << 20
AT_ONCE = 64  # events of an answer

Kind = Literal["map", "region", "progress", "warning", "finished", "failed", "cancelled"]
LAST: tuple[Kind, ...] = ("finished", "failed", "cancelled")


class Event(NamedTuple):
    """What happened; `data` is JSON."""

    number: int
    kind: Kind
    data: bytes

    def encode(self) -> bytes:
        """As JSON."""
        return b'{"number":%d,"event":"%s","data":%s}' % (self.number, self.kind.encode(), self.data)

    def stream(self) -> bytes:
        """As a server-sent event."""
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (self.number, self.kind.encode(), self.data)


class EventLog:
    """Events of one session, from any thread, for any number of readers.

    Where more wait than there is room for, the oldest progress goes first; then the oldest others, in whose place a
    warning says which were lost.
    """

    def __init__(self, most: int = MOST_EVENTS, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._events: dict[int, Event] = {}  # in order of their numbers
        self._progress: deque[int] = deque()
        self._bytes = self._last = 0
        self._lost: tuple[int, int] | None = None  # the first and the last that no reader has had
        self._over = False
        self._lock = threading.Lock()
        self._waiters: set[Callable[[], None]] = set()

    @property
    def last(self) -> int:
        """The number of the newest event."""
        return self._last

    @property
    def over(self) -> bool:
        """Whether no more will come."""
        return self._over

    def add(self, kind: Kind, data: bytes) -> None:
        """Add an event, unless the last one has come."""
        with self._lock:
            if self._over:
                return
            self._last += 1
            self._put(Event(self._last, kind, data))
            self._over = kind in LAST
            while len(self._events) > self._most or (self._bytes > self._most_bytes and len(self._events) > 1):
                self._drop()
            waiters = [*self._waiters]
        for wake in waiters:
            wake()

    def read(self, after: int, most: int = AT_ONCE, keep: bool = False) -> list[Event]:
        """Events with higher numbers; what is not higher is not kept any longer, unless it is to be."""
        with self._lock:
            if not keep:
                for number in [*self._events]:
                    if number > after:
                        break
                    self._take(number)
                if self._lost and after >= self._lost[1]:
                    self._lost = None
            found = [tell_lost(*self._lost)] if self._lost and after < self._lost[1] else []
            for number, event in self._events.items():
                if len(found) == most:
                    break
                if number > after:
                    found.append(event)
            return found

    async def wait(self, after: int, wait_s: float) -> None:
        """Wait until there is an event with a higher number, or none will come."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(woken.set)
            except RuntimeError:  # of a loop that has ended
                return

        with self._lock:
            if self._last > after or self._over:
                return
            self._waiters.add(wake)
        try:
            async with asyncio.timeout(wait_s):
                await woken.wait()
        except TimeoutError:
            return
        finally:
            with self._lock:
                self._waiters.discard(wake)

    def _put(self, event: Event) -> None:
        self._events[event.number] = event
        self._bytes += len(event.data)
        if event.kind == "progress":
            self._progress.append(event.number)

    def _take(self, number: int) -> Event:
        event = self._events.pop(number)
        self._bytes -= len(event.data)
        return event

    def _drop(self) -> None:
        while self._progress:
            number = self._progress.popleft()
            if number in self._events and number != self._last:
                self._take(number)
                return
        oldest = next(iter(self._events))
        self._take(oldest)
        self._lost = (self._lost[0] if self._lost else oldest, oldest)


def tell_lost(first: int, last: int) -> Event:
    """The warning that stands for events that were lost."""
    told = f"events {first} to {last} were lost, as they were not fetched in time"
    return Event(last, "warning", msgspec.json.encode({"warning": told, "first": first, "last": last}))


def describe_tile(tile: "MapTile") -> bytes:
    """A map tile as an event's data."""
    height, width = tile.classes.shape
    told: dict[str, Any] = {
        "left": tile.left, "top": tile.top, "width": width, "height": height, "lag_ms": round(tile.lag_s * 1000, 1),
        "classes": pack(tile.classes.tobytes()), "probabilities": pack(tile.probabilities.tobytes()),
    }  # fmt: skip
    return msgspec.json.encode(told)


def pack(content: bytes) -> str:
    """Bytes as base64 of zlib."""
    return base64.b64encode(zlib.compress(content, 1)).decode()
