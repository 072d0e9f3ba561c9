"""What is told of a run while it works: the seconds of each stage, and how far it is."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None]  # windows done, windows in all; what it raises ends the run


class Clock:
    """Seconds that each stage was busy, summed over threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed


class Watch:
    """What a run tells of itself while it works: the seconds of its stages, and its windows as they are done.

    `contexts` counts the surroundings that a network was run on.
    """

    def __init__(self, progress: Progress = lambda done, total: None, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self._progress = progress
        self.contexts = self._done = self._total = 0

    def expect(self, windows: int) -> None:
        """So many windows are to come."""
        self._total += windows

    def advance(self, windows: int) -> None:
        """So many more are done."""
        self._done += windows
        self._progress(self._done, self._total)
