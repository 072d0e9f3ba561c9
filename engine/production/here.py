"""Slides scored by the process that leads, one after another: nothing to start, and nothing that keeps it from them."""

from collections.abc import Callable, Mapping, Sequence

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.production.wire import Advanced, Event, Order, Setup
from glassrt.engine.production.worker import Worker
from glassrt.engine.runtimes.protocol import Backend


class Here:
    """An `Executor` of one slide at a time, which is scored when it is submitted.

    `advance` is told of windows at once, as no one polls meanwhile; what it raises ends the batch. `opened` is a bundle
    by its path and identity with its runtime, which is closed in the end.
    """

    def __init__(
        self,
        setup: Setup,
        advance: Callable[[Advanced], None],
        opened: Mapping[str, tuple[Bundle, Backend]] | None = None,
    ) -> None:
        self._events: list[Event] = []
        self._worker = Worker(setup, self._tell, opened)
        self._advance = advance

    @property
    def free(self) -> int:
        """As `Executor.free`: none until what came of the last one is taken note of."""
        return 0 if self._events else 1

    def submit(self, order: Order) -> None:
        """As `Executor.submit`."""
        self._worker.score(order)

    def poll(self, wait_s: float) -> Sequence[Event]:
        """As `Executor.poll`; it never waits."""
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """As `Executor.close`."""
        self._worker.close()

    def _tell(self, event: Event) -> None:
        if isinstance(event, Advanced):
            self._advance(event)
        else:
            self._events.append(event)
