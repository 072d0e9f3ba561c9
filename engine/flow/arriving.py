"""Windows as their pixels arrive: cut, batched with a bounded wait, inferred, handed on."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.flow.cut import cut_batch, read_region, scale_part
from glassrt.engine.flow.front import Unit
from glassrt.engine.flow.host import refuse_non_finite
from glassrt.engine.flow.runner import RegionSource
from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.geometry.plan import Plan
from glassrt.engine.runtimes.protocol import Array, Backend
from glassrt.engine.slides.slide import Pixels
from glassrt.engine.watch import Clock

CUT_AHEAD = 64  # windows: 20 MB at 320 pixels
Value = TypeVar("Value")


class Came(NamedTuple):
    """What came of windows: their logits `[n, C, h, w]`, or None where they show nothing or cannot be computed."""

    indices: Indices
    outputs: Array | None


class ArrivingRunner:
    """Threads that cut what is ready, run the network and hand on what it gave, to one caller at a time.

    `shows` says whether a window is worth computing; `take` is called with what came of windows, `told` after that;
    `release` is called with a unit once it has been cut. What goes
    wrong in a thread is kept in `error`, and everything stops.
    """

    def __init__(
        self,
        source: RegionSource,
        plan: Plan,
        backend: Backend,
        take: Callable[[Came], None],
        told: Callable[[], None],
        release: Callable[[Unit], None],
        shows: Callable[[Pixels], bool] | None,
        patience_s: float,
        clock: Clock,
    ) -> None:
        self._source, self._plan, self._backend, self._clock = source, plan, backend, clock
        self._take, self._told, self._release = take, told, release
        self._shows, self._patience_s = shows, patience_s
        self._ready: queue.SimpleQueue[Unit | None] = queue.SimpleQueue()
        self._cut: queue.Queue[tuple[int, Pixels]] = queue.Queue(CUT_AHEAD)
        self._came: queue.SimpleQueue[Came | None] = queue.SimpleQueue()
        self._later: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._postponed = 0
        self._batching = threading.Lock()
        self._change = threading.Condition()
        self._stopped = False
        self.backlog = 0  # windows that are ready and not handed on yet
        self.error: BaseException | None = None
        works = [self._cut_cells, *[self._infer] * backend.streams, self._hand_on, self._do_later]
        self._threads = [threading.Thread(target=self._guard, args=(work,), daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def submit(self, ready: Unit) -> None:
        """The pixels of these windows are there."""
        with self._change:
            self.backlog += len(ready.indices)
        self._ready.put(ready)

    def drop(self, indices: Indices) -> None:
        """These windows will not come."""
        if len(indices):
            with self._change:
                self.backlog += len(indices)
            self._came.put(Came(indices, None))

    def later(self, work: Callable[[], None]) -> None:
        """Do this in a thread of its own, after what was postponed before: `take` must not wait for it."""
        with self._change:
            self._postponed += 1
        self._later.put(work)

    def drain(self) -> None:
        """Wait until nothing is left to do, or something went wrong."""
        with self._change:
            self._change.wait_for(lambda: not (self.backlog or self._postponed) or self.error is not None)

    def wait(self, most: int, timeout_s: float | None) -> bool:
        """Wait until no more than so many windows wait, or something went wrong; whether the former is so."""
        with self._change:
            self._change.wait_for(lambda: self.backlog <= most or self.error is not None, timeout_s)
            return self.backlog <= most

    def fail(self, error: BaseException) -> None:
        """Let all that wait raise this, and everything stop, unless something else went wrong before."""
        with self._change:
            self.error = self.error or error
            self._stopped = True
            self._change.notify_all()
        self._wake()

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is one of these."""
        return threading.current_thread() in self._threads

    def stop(self) -> None:
        """End all threads, whatever waits; harmless when done twice."""
        with self._change:
            self._stopped = True
            self._change.notify_all()
        self._wake()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _wake(self) -> None:
        for waiting in (self._ready, self._came, self._later):
            waiting.put(None)

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.fail(error)

    def _cut_cells(self) -> None:
        while (ready := self._ready.get()) is not None and not self._stopped:
            windows = cut_unit(self._source, ready, self._clock)
            self._release(ready)
            kept = [self._shows is None or self._shows(window) for window in windows]
            if not all(kept):
                self._came.put(Came(ready.indices[~np.array(kept)], None))
            for index, window, keep in zip(ready.indices.tolist(), windows, kept, strict=True):
                if keep and not self._put((index, window)):
                    return

    def _put(self, window: tuple[int, Pixels]) -> bool:
        while not self._stopped:
            try:
                self._cut.put(window, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def _infer(self) -> None:
        (name,) = (spec.name for spec in self._backend.inputs)
        side = self._plan.window
        while not self._stopped:
            with self._batching:  # one thread at a time, or several would wait with part of a batch each
                batch = self._gather()
            if not batch:
                continue
            windows = np.zeros((self._backend.batch, side, side, 3), np.uint8)
            for place, (_, window) in zip(windows, batch, strict=False):
                place[:] = window
            indices = np.array([index for index, _ in batch], np.int64)
            with self._clock.time("infer"):
                (outputs,) = self._backend.infer({name: windows}).values()
            self._came.put(Came(indices, outputs[: len(indices)]))

    def _gather(self) -> list[tuple[int, Pixels]]:
        """A batch, full or after as long as patience has."""
        batch: list[tuple[int, Pixels]] = []
        until = time.monotonic() + 0.2
        while len(batch) < self._backend.batch:
            try:
                batch.append(self._cut.get(timeout=max(0.0, until - time.monotonic())))
            except queue.Empty:
                break
            if len(batch) == 1:
                until = time.monotonic() + self._patience_s
        return batch

    def _hand_on(self) -> None:
        while (came := self._came.get()) is not None and not self._stopped:
            if came.outputs is not None:
                outputs = {"logits": came.outputs}
                refuse_non_finite(outputs, came.indices, self._plan.fine, self._source, self._backend)
            self._take(came)
            with self._change:
                self.backlog -= len(came.indices)
                self._change.notify_all()
            self._told()

    def _do_later(self) -> None:
        while (work := self._later.get()) is not None and not self._stopped:
            work()
            with self._change:
                self._postponed -= 1
                self._change.notify_all()
            self._told()


def cut_unit(source: RegionSource, unit: Unit, clock: Clock) -> NDArray[Any]:
    """Its windows `[n, H, W, 3]`, as a run over a file cuts them."""
    layer, numbers = unit.layer, unit.numbers
    (cell,) = dict.fromkeys(layer.cell_of[numbers].tolist())
    region = done(read_region(source, layer, cell, clock))
    parts = {
        number: done(scale_part(layer, layer.parts[number], region, clock))
        for number in dict.fromkeys(layer.part_of[numbers].tolist())
    }
    return cut_batch(layer, numbers, len(numbers), parts, clock)


def done(value: Value) -> "Future[Value]":
    """A future that has come."""
    future: Future[Value] = Future()
    future.set_result(value)
    return future
