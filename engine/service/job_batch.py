"""The batch that jobs are: one slide each, in one journal, whose workers are processes of their own."""

from collections.abc import Callable, Sequence
from pathlib import Path

from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.production.batch import Batch, Options, choose_runtime
from glassrt.engine.production.executor import Executor
from glassrt.engine.production.wire import Event, Failed, Order

DISMISSED = "dismissed"


class JobBatch(Batch):
    """A batch whose slides may each have any of the bundles that are served."""

    def __init__(self, out: Path, options: Options, bundles: Sequence[Path]) -> None:
        super().__init__([], out, options)
        for path in map(str, bundles):
            self.bundles[path] = bundle = open_bundle(path)
            self._chosen[path] = choose_runtime(bundle, options)


class Dismissing:
    """An `Executor` that leaves out what has been dismissed, and fails it."""

    def __init__(self, executor: Executor, is_dismissed: Callable[[str], bool]) -> None:
        self._executor, self._is_dismissed = executor, is_dismissed
        self._failed: list[Event] = []

    @property
    def free(self) -> int:
        """As `Executor.free`."""
        return self._executor.free

    def submit(self, order: Order) -> None:
        """As `Executor.submit`."""
        if self._is_dismissed(order.id):
            self._failed.append(Failed(order.id, "dismissed by its client", DISMISSED))
        else:
            self._executor.submit(order)

    def poll(self, wait_s: float) -> Sequence[Event]:
        """As `Executor.poll`."""
        failed, self._failed = self._failed, []
        return [*failed, *self._executor.poll(0 if failed else wait_s)]

    def close(self) -> None:
        """As `Executor.close`."""
        self._executor.close()
