"""How far a batch is: of one slide its windows, of many how many are done."""

import sys
from pathlib import Path

from glassrt.engine.commands.progress import Advance, show_progress
from glassrt.engine.commands.terminal import printable
from glassrt.engine.production.plan import Plan
from glassrt.engine.production.wire import Advanced, Failed, Lost, Order
from glassrt.engine.results.summary import Outcome


class Shown:
    """A context manager and a `Watcher` that shows a batch; of slides that are scored `alone`, one by one, each."""

    def __init__(self, slides: int, alone: bool) -> None:
        self._progress = show_progress("windows" if alone else "slides", batch=True)
        self._alone, self._slides = alone, slides
        self._number = self._ended = self._failed = 0
        self._advance: Advance | None = None

    def __enter__(self) -> "Shown":
        self._progress.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.__exit__(*exception)

    def expect(self, plan: Plan) -> None:
        """So much is to be done."""
        self._slides = sum(row.state == "waiting" for row in plan.rows)
        if not self._alone:
            self._advance = self._progress.start("score", self._slides)

    def begin(self, order: Order) -> None:
        """As `Watcher.begin`."""
        self._number += 1
        if self._alone:
            number = f"[{self._number}/{self._slides}] " if self._slides > 1 else ""
            self._advance = self._progress.start(f"{number}{Path(order.path).name}")

    def advanced(self, told: Advanced) -> None:
        """So many windows of the slide at hand are done."""
        if self._alone and self._advance is not None:
            self._advance(told.done, told.total)

    def advance(self, order: Order, done: int, total: int) -> None:
        """As `Watcher.advance`; of many slides at once none is shown."""

    def end(self, order: Order, outcome: Outcome | None, failure: Failed | Lost | None, again: bool) -> None:
        """As `Watcher.end`."""
        if again:
            return
        self._ended, self._failed = self._ended + 1, self._failed + (failure is not None)
        if not self._alone and self._advance is not None:
            self._advance(self._ended, self._slides, f"{self._failed} failed" if self._failed else "")


class Printed:
    """A `Watcher` that prints a line for each slide, as where nobody looks at bars."""

    def begin(self, order: Order) -> None:
        """As `Watcher.begin`."""

    def advance(self, order: Order, done: int, total: int) -> None:
        """As `Watcher.advance`."""

    def end(self, order: Order, outcome: Outcome | None, failure: Failed | Lost | None, again: bool) -> None:
        """As `Watcher.end`."""
        if failure is not None:
            print(
                f"glassrt: {printable(failure.error)}{': trying again' if again else ''}", file=sys.stderr, flush=True
            )
        elif outcome is not None and outcome.result is not None:
            print(printable(f"{order.id}: {outcome.status} in {outcome.result.seconds['total']:.1f} s"), flush=True)
