"""Signals that end a batch: the first one as soon as what is being scored can be given up, a second one at once."""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AT_ONCE = 130  # exit code
Told = TypeVar("Told")


class Stop:
    """A context manager in which SIGINT and SIGTERM are taken note of: `came` says so, what `guard` wraps raises
    KeyboardInterrupt.

    Python would raise it wherever the main thread stands: in a destructor it is swallowed, in a lock it comes out as
    another error, or leaves the lock taken for good.
    """

    def __init__(self) -> None:
        self.came = False
        self._older: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        self._older = {each: signal.signal(each, self._remember) for each in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for each, handler in self._older.items():
            signal.signal(each, handler)

    def guard(self, told: Callable[[Told], None]) -> Callable[[Told], None]:
        """A callback that does what `told` does unless a signal came."""

        def guarded(value: Told) -> None:
            if self.came:
                raise KeyboardInterrupt
            told(value)

        return guarded

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            os._exit(AT_ONCE)  # workers end with this process
        self.came = True
