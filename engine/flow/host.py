"""Read, cut, batch, infer, hand on: on the host, with a bounded number of windows under way."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from glassrt.engine.errors import SlideError
from glassrt.engine.flow.cut import Batch, cut_batches
from glassrt.engine.flow.runner import RegionSource, Sink
from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.geometry.plan import Plan
from glassrt.engine.runtimes.protocol import Array, Backend
from glassrt.engine.watch import Clock, Watch

CALLS_AHEAD = 2  # of each stream: one runs and one waits, so that none idles while outputs are taken


class HostRunner:
    """Threads read regions and cut windows, others run the network, and the calling thread hands on what it gave.

    Outputs come in the plan's order, so results do not depend on timing. The backend stays the caller's.
    """

    def __init__(self, backend: Backend, readers: int) -> None:
        self.backend, self.readers = backend, readers

    def run(self, source: RegionSource, plan: Plan, sink: Sink, watch: Watch) -> None:
        """As `Runner.run`; the last batch is filled up with blank windows."""
        watch.expect(len(plan.windows))
        with (
            ThreadPoolExecutor(self.readers, "reader") as reading,
            ThreadPoolExecutor(self.backend.streams, "network") as network,
        ):
            try:
                batches = cut_batches(source, plan, self.backend.batch, reading, self.readers, watch.clock)
                for indices, outputs in infer_batches(self.backend, batches, network, watch.clock):
                    with watch.clock.time("stitch"):
                        outputs = {name: values[: len(indices)] for name, values in outputs.items()}
                        self._refuse_non_finite(outputs, indices, source, plan)
                        sink.add(indices, outputs)
                        watch.advance(len(indices))
            finally:
                network.shutdown(cancel_futures=True)
                reading.shutdown(cancel_futures=True)
        sink.finish()

    def _refuse_non_finite(
        self, outputs: Mapping[str, Array], indices: Indices, source: RegionSource, plan: Plan
    ) -> None:
        """Raise SlideError where a window's outputs are no numbers: as a class they would look like the background."""
        finite = [np.isfinite(values).reshape(len(indices), -1).all(axis=1) for values in outputs.values()]
        if all(each.all() for each in finite):
            return
        bad = int(indices[~np.all(finite, axis=0)][0])
        number, *xy = plan.windows[bad].tolist()
        view = plan.views[number]
        x, y = (
            round(max(0, at) * base / length)
            for at, base, length in zip(xy, source.base_size, (view.width, view.height), strict=True)
        )
        backend = self.backend
        raise SlideError(
            f"{source.name}: the network gave NaN or infinity for the window at x {x}, y {y} of level 0 (scale "
            f"{view.scale:g}), in {backend.precision} through {backend.name} {backend.version} on {backend.device}: "
            "take another --precision or --backend, and run `glassrt verify`"
        )


def infer_batches(
    backend: Backend, batches: Iterable[tuple[Indices, Batch]], pool: ThreadPoolExecutor, clock: Clock
) -> Iterator[tuple[Indices, Mapping[str, Array]]]:
    """Yield (indices, outputs) in order from a pool of the backend's streams, which are busy meanwhile."""

    def infer(batch: Batch) -> Mapping[str, Array]:
        with clock.time("infer"):
            return backend.infer(batch)

    running: deque[tuple[Indices, Future[Mapping[str, Array]]]] = deque()
    for indices, batch in batches:
        running.append((indices, pool.submit(infer, batch)))
        if len(running) > CALLS_AHEAD * backend.streams:
            oldest, outputs = running.popleft()
            yield oldest, outputs.result()
    for oldest, outputs in running:
        yield oldest, outputs.result()
