"""The process that leads a batch: it hands slides out, takes note of what came of them, and tries again what failed."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple, Protocol

from glassrt.engine.errors import OutputError
from glassrt.engine.production.executor import Executor
from glassrt.engine.production.journal import Journal
from glassrt.engine.production.wire import Advanced, Done, Event, Failed, Lost, Order
from glassrt.engine.results.summary import Outcome

WAIT_S = 0.5


class Watcher(Protocol):
    """What is told of a batch while it runs."""

    def begin(self, order: Order) -> None:
        """A slide is begun."""

    def advance(self, order: Order, done: int, total: int) -> None:
        """So many of its windows are done, of so many."""

    def end(self, order: Order, outcome: Outcome | None, failure: Failed | Lost | None, again: bool) -> None:
        """It is scored, or it failed and is tried `again` or not."""


class Settings(NamedTuple):
    """How often a slide is tried; what is asked now and then whether to stop; what is told which slides come next; and
    what gives more slides while the batch runs, which then ends only when it is stopped.
    """

    attempts: int = 2
    stopped: Callable[[], bool] = lambda: False
    coming: Callable[[Sequence[Order]], None] = lambda orders: None
    more: Callable[[], Mapping[str, Order]] | None = None


def lead(
    orders: Mapping[str, Order],
    executor: Executor,
    journal: Journal,
    read: Callable[[Order], Outcome],
    watcher: Watcher,
    settings: Settings,
) -> bool:
    """Have all slides scored; whether it came to the end.

    Raises OutputError where results cannot be written, or a bundle cannot be run: no later slide could be scored. Then,
    and where it is stopped, what was being scored is given up and waits in the journal.
    """
    known, waiting = dict(orders), deque(orders)
    attempts, running = dict[str, int](), set[str]()
    try:
        while waiting or running or settings.more:
            if settings.stopped():
                return False
            if settings.more:
                new = {id: order for id, order in settings.more().items() if id not in running}
                known |= new
                waiting.extend(id for id in new if id not in waiting)
            while waiting and executor.free:
                id = waiting.popleft()
                journal.begin(id)
                attempts[id] = attempts.get(id, 0) + 1
                running.add(id)
                watcher.begin(known[id])
                executor.submit(known[id])
                settings.coming([known[each] for each in islice(waiting, len(running))])
            for event in executor.poll(WAIT_S):
                order = known[event.id]
                if isinstance(event, Advanced):
                    watcher.advance(order, event.done, event.total)
                    continue
                if isinstance(event, Failed) and event.fatal:
                    raise OutputError(event.error)
                running.discard(event.id)
                again = attempts[event.id] < settings.attempts
                if not note(event, order, journal, read, watcher, again) and again:
                    waiting.append(event.id)
                else:
                    del attempts[event.id]  # should it come anew
        return True
    finally:
        executor.close()
        with suppress(OutputError):  # of a disk that is full: the next batch does it
            journal.release()


def note(
    event: Event, order: Order, journal: Journal, read: Callable[[Order], Outcome], watcher: Watcher, again: bool
) -> bool:
    """Write down what came of a slide; whether it is done."""
    outcome = read(order) if isinstance(event, Done) else None
    if outcome is not None and outcome.result is not None:
        journal.finish(order.id, outcome.result.seconds, outcome.result.windows["run"])
        watcher.end(order, outcome, None, False)
        return True
    gone = Failed(order.id, f"{order.folder}: its results are gone", "output")
    failure = event if isinstance(event, Failed | Lost) else gone
    journal.fail(order.id, failure.error, failure.reason, again)
    watcher.end(order, None, failure, again)
    return False
