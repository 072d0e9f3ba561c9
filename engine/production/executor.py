"""What a batch hands its slides to: processes of this machine, or those of many."""

from collections.abc import Sequence
from typing import Protocol

from glassrt.engine.production.wire import Event, Order


class Executor(Protocol):
    """Workers that score slides, each one at a time. A slide that is lost with its worker costs no other one."""

    @property
    def free(self) -> int:
        """How many slides could be taken on now."""

    def submit(self, order: Order) -> None:
        """Take a slide on, where one is free."""

    def poll(self, wait_s: float) -> Sequence[Event]:
        """What happened since the last call; waits for as long where nothing did."""

    def close(self) -> None:
        """End all workers at once, whatever they are at; harmless when done twice."""
