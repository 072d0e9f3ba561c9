"""Decoded tiles that are kept for a while: neighbouring regions share those on their border."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from glassrt.engine.slides.slide import Pixels

CACHE_BYTES = 64_000_000


class Kept:
    """The latest tiles of all slides that are open, of at most so many bytes together. Thread-safe."""

    def __init__(self, most_bytes: int = CACHE_BYTES) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._tiles: OrderedDict[tuple[object, Hashable], Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, slide: object, place: Hashable, decode: Callable[[], Pixels]) -> Pixels:
        """The tile at a place of a slide, decoded unless it is kept."""
        key = (slide, place)
        with self._lock:
            if (tile := self._tiles.get(key)) is not None:
                self._tiles.move_to_end(key)
                return tile
        tile = decode()
        with self._lock:
            if key not in self._tiles:
                self._tiles[key] = tile
                self._bytes += tile.nbytes
            while self._bytes > self._most_bytes:
                self._bytes -= self._tiles.popitem(last=False)[1].nbytes
        return tile

    def forget(self, slide: object) -> None:
        """Drop the tiles of a slide, which is closed."""
        with self._lock:
            for key in [key for key in self._tiles if key[0] is slide]:
                self._bytes -= self._tiles.pop(key).nbytes


KEPT = Kept()
