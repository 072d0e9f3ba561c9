"""Ctrl-C that is not lost."""

import signal
from types import FrameType
from typing import Any

from glassrt.engine.segment import Progress


class Interrupt:
    """A context manager that remembers Ctrl-C.

    Python raises KeyboardInterrupt wherever the main thread stands: in a destructor it is swallowed, in a lock it comes
    out as another error. What `guard` wraps raises it again, and so does the end of the context.
    """

    def __init__(self) -> None:
        self._came = False
        self._older: Any = None

    def __enter__(self) -> "Interrupt":
        self._older = signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        signal.signal(signal.SIGINT, self._older)
        if kind is None:
            self._raise_again()

    def guard(self, progress: Progress) -> Progress:
        """A callback that does what `progress` does unless Ctrl-C came."""

        def advance(done: int, total: int) -> None:
            self._raise_again()
            progress(done, total)

        return advance

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        raise KeyboardInterrupt

    def _raise_again(self) -> None:
        if self._came:
            raise KeyboardInterrupt
