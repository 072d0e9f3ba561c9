"""What a network learns from, step by step: examples drawn in threads and put together as batches.

What a batch holds depends on the seed and the step alone, not on how many processes share it.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glassrt.training.config import Schedule
from glassrt.training.world import World

Random = np.random.Generator
Input = NDArray[np.uint8] | NDArray[np.floating[Any]]


class Example(NamedTuple):
    """What a network learns from at once, its label of any shape, and the file it was cut from.

    `inputs` is an RGB image `[H, W, 3]`, a vector `[D]`, a bag of K of either, `[K, H, W, 3]` or `[K, D]`, or several
    of these by name. Images and vectors of one input have one size throughout a batch; K may differ.
    """

    inputs: Input | Mapping[str, Input]
    label: NDArray[np.generic]
    source: str


class Bags(NamedTuple):
    """The bags of a batch: all they hold one after another, and each bag's K.

    `instances` is `[sum of K, 3, H, W]` of images and `[sum of K, D]` of features. `rows.split(sizes)` gives each bag
    its part of what a network made of it.
    """

    instances: Tensor
    sizes: list[int]


Draw = Callable[[int, Random], Example]
Batches = Iterator[tuple[Any, Tensor, Sequence[str]]]


@contextmanager
def batches(draw: Draw, schedule: Schedule, first: int, share: int, world: World) -> Iterator[Batches]:
    """The process's `share` of the batches from step `first` on, each drawn in threads while the one before is used.

    A batch is the inputs as `stack` gives them, the stacked labels, and the files they were cut from.
    """

    def draw_seeded(number: int) -> Example:
        return draw(number, np.random.default_rng([schedule.seed, number]))

    with ThreadPoolExecutor(min(share, os.cpu_count() or 1), "draw") as threads:

        def start(step: int) -> list[Future[Example]]:
            begin = step * schedule.batch + world.rank * share
            return [threads.submit(draw_seeded, number) for number in range(begin, begin + share)]

        def drawn() -> Batches:
            waiting = start(first)
            for step in range(first, schedule.steps):
                examples = [future.result() for future in waiting]
                waiting = start(step + 1) if step + 1 < schedule.steps else []
                inputs = stack([each.inputs for each in examples], world.device)
                labels = torch.from_numpy(np.stack([each.label for each in examples]))
                yield inputs, labels.to(world.device), [each.source for each in examples]

        try:
            yield drawn()
        finally:
            threads.shutdown(cancel_futures=True)


def stack(inputs: Sequence[Input | Mapping[str, Input]], device: torch.device) -> Any:
    """The examples' inputs as one batch on the device, float32: pixels in 0..255, features as they are.

    Images `[H, W, 3]` and vectors `[D]` become tensors `[N, 3, H, W]` and `[N, D]`, bags `[K, H, W, 3]` and `[K, D]`
    become `Bags`, inputs by name a dict.
    """
    first = inputs[0]
    if isinstance(first, Mapping):
        return {name: stack([each[name] for each in inputs], device) for name in first}  # type: ignore[call-overload]
    arrays: list[Input] = list(inputs)  # type: ignore[arg-type]
    bags = first.ndim in (2, 4)
    joined = torch.from_numpy(np.concatenate(arrays) if bags else np.stack(arrays))
    if joined.ndim == 4:
        joined = joined.permute(0, 3, 1, 2)
    tensor = joined.to(device).float()
    return Bags(tensor, [len(bag) for bag in arrays]) if bags else tensor


def shuffled(number: int, count: int, seed: int) -> int:
    """Which of `count` things the number-th draw takes: each once an epoch, every epoch in another order."""
    epoch, place = divmod(number, count)
    return int(np.random.default_rng([seed, epoch]).permutation(count)[place])


def epoch_steps(count: int, batch: int) -> int:
    """Steps in which `shuffled` takes each of `count` things; the last batch ends with the next epoch's first ones."""
    return -(-count // batch)
