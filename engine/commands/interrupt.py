"""Ctrl-C that comes where the work may end."""

import signal
from types import FrameType
from typing import Any

from glassrt.engine.watch import Progress


class Interrupt:
    """A context manager that holds Ctrl-C back until what `guard` wraps is called, or the context ends.

    Python raises KeyboardInterrupt wherever the main thread stands: in a destructor it is swallowed, in a lock it comes
    out as another error, or leaves the lock taken for good. A second Ctrl-C is raised at once all the same.
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
            self._let_out()

    def guard(self, progress: Progress) -> Progress:
        """A callback that does what `progress` does unless Ctrl-C came, which this call also asks."""
        self._let_out()

        def advance(done: int, total: int) -> None:
            self._let_out()
            progress(done, total)

        return advance

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._let_out()
        self._came = True

    def _let_out(self) -> None:
        if self._came:
            raise KeyboardInterrupt
