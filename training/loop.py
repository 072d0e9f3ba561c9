"""The loop that every method trains with: exact resume, one device or several, averaged weights, a run folder.

A run folder holds `metrics.csv`, `tensorboard/`, `samples/`, `state.safetensors` (to resume) and, when it is
complete, `model.safetensors`. Started by torchrun, each process draws its share of every batch; what the batches
hold does not depend on how many processes there are.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from glassrt.engine.errors import TrainingError
from glassrt.training.config import Schedule
from glassrt.training.run import Run
from glassrt.training.world import World

Random = np.random.Generator
Progress = Callable[[int, float], None]


class Example(NamedTuple):
    """One input of a batch: RGB `[H, W, 3]`, its label of any shape, and the file it was cut from."""

    pixels: NDArray[np.uint8]
    label: NDArray[np.generic]
    source: str


class Task(NamedTuple):
    """What one network learns.

    `build()` makes the network, with the weights it starts from. `draw(number, random)` makes the number-th example
    of the run from its own random numbers. `loss(network, pixels, labels, step)` takes RGB `[N, 3, H, W]` in 0..255
    and the stacked labels. `picture(network, pixels, labels)` shows a batch as one RGB picture.
    """

    build: Callable[[], nn.Module]
    draw: Callable[[int, Random], Example]
    loss: Callable[[nn.Module, Tensor, Tensor, int], Tensor]
    picture: Callable[[nn.Module, Tensor, Tensor], NDArray[np.uint8]]


def fit(task: Task, schedule: Schedule, run: Run, world: World, progress: Progress = lambda step, loss: None) -> None:
    """Train to the end, resuming where the run stopped; leaves the averaged weights in `run.model`.

    `progress` is called after each step with its number and loss. Raises TrainingError or OutputError.
    """
    share = world.part(schedule.batch)
    torch.manual_seed(schedule.seed)
    network = task.build().to(world.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(schedule.average_decay), use_buffers=True)
    optimiser = build_optimiser(network, schedule)
    first = run.resume(network, average, optimiser)
    learner = world.share(network)
    with run.open_log(first, world.leads) as log, batches(task, schedule, first, share, world) as drawn:
        for step, (pixels, labels, sources) in enumerate(drawn, start=first):
            torch.manual_seed(schedule.seed + step * world.size + world.rank)  # dropout, the same after a resume
            rate = learning_rate(step, schedule)
            with half_precision(world.device):
                loss = task.loss(learner, pixels, labels, step)
            value = world.mean(loss)
            if not math.isfinite(value):
                raise diverged(run, step, value, sources if not loss.isfinite() else ["what another process drew"])
            take_step(optimiser, loss, rate)
            average.update_parameters(network)
            if log is not None:
                log.write(step, value, rate)
                if (step + 1) % schedule.sample_every == 0 or step + 1 == schedule.steps:
                    log.show(step, task.picture(average.module, pixels, labels))
                if (step + 1) % schedule.save_every == 0 and step + 1 < schedule.steps:
                    log.flush()
                    run.save(step + 1, network, average, optimiser)
                progress(step, value)
    if world.leads:
        run.finish(average.module)
    world.wait()


def diverged(run: Run, step: int, loss: float, sources: Sequence[str]) -> TrainingError:
    """What to say of a loss that is no number."""
    return TrainingError(
        f"{run.folder}: the loss became {loss} at step {step}, on {', '.join(sorted(set(sources)))}; "
        "look at these files, or lower learning_rate and choose another --out"
    )


def take_step(optimiser: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    """One update of the weights at the learning rate `rate`."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def build_optimiser(network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or AdamW."""
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(
            network.parameters(), lr=schedule.learning_rate, momentum=0.9, weight_decay=schedule.weight_decay
        )
    return torch.optim.AdamW(network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)


def learning_rate(step: int, schedule: Schedule) -> float:
    """Linear warm-up, then polynomial decay with power 0.9."""
    warmup = min(1.0, (step + 1) / (schedule.warmup_steps + 1))
    return float(schedule.learning_rate * warmup * (1 - step / schedule.steps) ** 0.9)


def half_precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where it is faster, on GPUs that compute in it; those that would emulate it train in float32."""
    enabled = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


Batches = Iterator[tuple[Tensor, Tensor, Sequence[str]]]


@contextmanager
def batches(task: Task, schedule: Schedule, first: int, share: int, world: World) -> Iterator[Batches]:
    """The process's share of the batches from step `first` on, each drawn in threads while the one before is used."""

    def draw(number: int) -> Example:
        return task.draw(number, np.random.default_rng([schedule.seed, number]))

    with ThreadPoolExecutor(min(share, os.cpu_count() or 1), "draw") as threads:

        def start(step: int) -> list[Future[Example]]:
            begin = step * schedule.batch + world.rank * share
            return [threads.submit(draw, number) for number in range(begin, begin + share)]

        def drawn() -> Batches:
            waiting = start(first)
            for step in range(first, schedule.steps):
                examples = [future.result() for future in waiting]
                waiting = start(step + 1) if step + 1 < schedule.steps else []
                pixels = torch.from_numpy(np.stack([each.pixels for each in examples])).permute(0, 3, 1, 2)
                labels = torch.from_numpy(np.stack([each.label for each in examples]))
                yield pixels.to(world.device).float(), labels.to(world.device), [each.source for each in examples]

        try:
            yield drawn()
        finally:
            threads.shutdown(cancel_futures=True)


def shuffled(number: int, count: int, seed: int) -> int:
    """Which of `count` things the number-th draw takes: each once an epoch, every epoch in another order."""
    epoch, place = divmod(number, count)
    return int(np.random.default_rng([seed, epoch]).permutation(count)[place])
