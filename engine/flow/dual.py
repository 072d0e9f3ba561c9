"""Two networks: the surroundings of windows through one, each once, and what it gives with the windows through the
other.
"""

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from glassrt.engine.errors import SlideError
from glassrt.engine.flow.cut import WINDOWS_AHEAD, Batch, cut_layer, tell_places
from glassrt.engine.flow.host import HostRunner, infer_batches, refuse_non_finite
from glassrt.engine.flow.runner import RegionSource
from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.geometry.plan import Plan
from glassrt.engine.runtimes.chain import Chain
from glassrt.engine.runtimes.protocol import Array
from glassrt.engine.watch import Watch

MOST_BYTES = 1 << 30  # of features kept for fine windows to come, beside those of the batches under way


class DualRunner(HostRunner):
    """As `HostRunner`, with a chain. Surroundings are cut and run in batches of their own, ahead of the fine windows
    that need their features; of these no more are kept than those that fine windows still to come need. At several
    scales these grow with the slide: where they would pass `MOST_BYTES` nothing is read, and SlideError raised.
    """

    def __init__(self, chain: Chain, readers: int) -> None:
        super().__init__(chain, readers)
        self.chain = chain

    def infer(
        self, source: RegionSource, plan: Plan, reading: ThreadPoolExecutor, network: ThreadPoolExecutor, watch: Watch
    ) -> Iterator[tuple[Indices, Mapping[str, Array]]]:
        fine, context = plan.layers
        refuse_too_many(source.name, plan, self.chain)
        features = Features(self._compute_features(source, plan, reading, network, watch), context.of)
        ahead = self.readers + -(-WINDOWS_AHEAD // self.chain.batch)
        cut = cut_layer(source, fine, self.chain.batch, reading, ahead, watch.clock)
        batches = (
            (indices, join(plan, indices, windows, features.take(indices, self.chain.batch)))
            for indices, windows in cut
        )
        return infer_batches(self.chain.fine, batches, network, watch.clock)

    def _compute_features(
        self, source: RegionSource, plan: Plan, reading: ThreadPoolExecutor, network: ThreadPoolExecutor, watch: Watch
    ) -> Iterator[tuple[Indices, Mapping[str, Array]]]:
        """Yield (numbers, features) of the surroundings in order."""
        backend, layer = self.chain.context, plan.layers[1]
        # As far ahead as the fine windows are cut that they belong to.
        windows_ahead = -(-WINDOWS_AHEAD * len(layer.windows) // max(1, len(plan.windows)))
        ahead = self.readers + -(-windows_ahead // backend.batch)
        cut = cut_layer(source, layer, backend.batch, reading, ahead, watch.clock)
        batches = ((numbers, {layer.input.name: windows}) for numbers, windows in cut)
        for numbers, outputs in infer_batches(backend, batches, network, watch.clock, "context"):
            features = {name: values[: len(numbers)] for name, values in self.chain.name_features(outputs).items()}
            refuse_non_finite(features, numbers, layer, source, backend)
            watch.contexts += len(numbers)
            yield numbers, features


class Features:
    """What is kept of the surroundings' features, which are `computed` in order as they are needed.

    `of` is the number of each fine window's surroundings; `held` are those of which fine windows are to come.
    """

    def __init__(self, computed: Iterator[tuple[Indices, Mapping[str, Array]]], of: Indices) -> None:
        self.held: dict[int, Mapping[str, Array]] = {}
        self._computed, self._of = computed, of
        self._last = find_last(of)
        self._count = 0

    def take(self, indices: Indices, size: int) -> Mapping[str, Array]:
        """The features `[size, ...]` that go with fine windows, zeros beyond `indices`; asked for in order."""
        numbers = self._of[indices].tolist()
        while self._count <= max(numbers):
            self._keep(*next(self._computed))
        taken = {name: np.zeros((size, *values.shape), values.dtype) for name, values in self.held[numbers[0]].items()}
        for row, number in enumerate(numbers):
            for name, values in self.held[number].items():
                taken[name][row] = values
        for number in set(numbers):
            if self._last[number] <= indices[-1]:
                del self.held[number]
        return taken

    def _keep(self, numbers: Indices, features: Mapping[str, Array]) -> None:
        for row, number in enumerate(numbers.tolist()):
            # A view would keep its whole batch for as long as one of it is needed.
            self.held[number] = {name: values[row].copy() for name, values in features.items()}
        self._count += len(numbers)


def find_last(of: Indices) -> Indices:
    """The last fine window that needs each of the surroundings, of which `of` tells each fine window's."""
    last = np.zeros(of.max(initial=-1) + 1, np.int64)
    np.maximum.at(last, of, np.arange(len(of)))
    return last


def count_held(of: Indices, fine_batch: int, context_batch: int) -> int:
    """The most surroundings that `Features` holds at once, where networks run in batches of these sizes."""
    if not len(of):
        return 0
    last, starts = find_last(of), np.arange(0, len(of), fine_batch)
    needed = np.maximum.accumulate(np.maximum.reduceat(of, starts)) + 1
    computed = np.minimum(-(-needed // context_batch) * context_batch, len(last))
    return int((computed - np.searchsorted(np.sort(last), starts)).max())


def refuse_too_many(name: str, plan: Plan, chain: Chain) -> None:
    """Raise SlideError where the features that the plan of the slide `name` needs at once are over `MOST_BYTES`."""
    each = sum(math.prod(spec.sized(1)[1:]) * np.dtype(spec.dtype).itemsize for spec in chain.context.outputs)
    held = count_held(plan.layers[1].of, chain.batch, chain.context.batch)
    if held * each > MOST_BYTES:
        scales = ", ".join(dict.fromkeys(f"{view.scale:g}" for view in plan.views))
        mirrored = ", mirrored too," if any(view.flip for view in plan.views) else ""
        raise SlideError(
            f"{name}: at scales {scales}{mirrored} the features of {held} surroundings of windows are needed at once, "
            f"{held * each / 2**30:.3g} GiB, of {MOST_BYTES / 2**30:.3g} that they may take: pass fewer --scales, "
            "--no-flip or a smaller --batch"
        )


def join(plan: Plan, indices: Indices, windows: Array, features: Mapping[str, Array]) -> Batch:
    """What the fine network takes of a batch."""
    return {plan.fine.input.name: windows, **features, **tell_places(plan, indices, len(windows))}
