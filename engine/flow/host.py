"""Read, cut, batch, infer, hand on: on the host, with a bounded number of windows under way."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from glassrt.engine.errors import SlideError
from glassrt.engine.flow.cut import Batch, cut_batches
from glassrt.engine.flow.runner import RegionSource, Sink
from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.geometry.plan import Layer, Plan
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
                for indices, outputs in self.infer(source, plan, reading, network, watch):
                    with watch.clock.time("stitch"):
                        outputs = {name: values[: len(indices)] for name, values in outputs.items()}
                        refuse_non_finite(outputs, indices, plan.fine, source, self.backend)
                        sink.add(indices, outputs)
                        watch.advance(len(indices))
            finally:
                network.shutdown(cancel_futures=True)
                reading.shutdown(cancel_futures=True)
        sink.finish()

    def infer(
        self, source: RegionSource, plan: Plan, reading: ThreadPoolExecutor, network: ThreadPoolExecutor, watch: Watch
    ) -> Iterator[tuple[Indices, Mapping[str, Array]]]:
        """Yield (indices, outputs of a whole batch) in the plan's order."""
        batches = cut_batches(source, plan, self.backend.batch, reading, self.readers, watch.clock)
        return infer_batches(self.backend, batches, network, watch.clock)


def refuse_non_finite(
    outputs: Mapping[str, Array], numbers: Indices, layer: Layer, source: RegionSource, backend: Backend
) -> None:
    """Raise SlideError where the outputs of a layer's windows are no numbers: as a class they would look like the
    background.
    """
    finite = [np.isfinite(values).reshape(len(numbers), -1).all(axis=1) for values in outputs.values()]
    if all(each.all() for each in finite):
        return
    bad = int(numbers[~np.all(finite, axis=0)][0])
    number, *xy = layer.windows[bad].tolist()
    view, name = layer.views[number], layer.input.name
    x, y = (
        round(max(0, at) * base / length)
        for at, base, length in zip(xy, source.base_size, (view.width, view.height), strict=True)
    )
    raise SlideError(
        f"{source.name}: the {'context ' if name == 'context' else ''}network gave NaN or infinity for the window at x "
        f"{x}, y {y} of level 0 (scale {view.scale:g}), in {backend.precision} through {backend.name} "
        f"{backend.version} on {backend.device}: take another --precision or --backend, and run `glassrt verify`"
    )


def infer_batches(
    backend: Backend,
    batches: Iterable[tuple[Indices, Batch]],
    pool: ThreadPoolExecutor,
    clock: Clock,
    stage: str = "infer",
) -> Iterator[tuple[Indices, Mapping[str, Array]]]:
    """Yield (indices, outputs) in order from a pool of the backend's streams, which are busy meanwhile."""

    def infer(batch: Batch) -> Mapping[str, Array]:
        with clock.time(stage):
            return backend.infer(batch)

    running: deque[tuple[Indices, Future[Mapping[str, Array]]]] = deque()
    for indices, batch in batches:
        running.append((indices, pool.submit(infer, batch)))
        if len(running) > CALLS_AHEAD * backend.streams:
            oldest, outputs = running.popleft()
            yield oldest, outputs.result()
    for oldest, outputs in running:
        yield oldest, outputs.result()
