"""The loop that every method trains with: exact resume, one device or several, averaged or best weights, a run folder.

A run folder holds `metrics.csv`, `tensorboard/`, `samples/`, `state.safetensors` (to resume) and, when it is
complete, `model.safetensors`; `validation.csv` where there is validation. Started by torchrun, each process draws its
share of every batch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from glassrt.engine.errors import TrainingError
from glassrt.training.batches import Bags, Draw, Example, Random, batches, epoch_steps, shuffled
from glassrt.training.config import Schedule
from glassrt.training.optimise import Group, as_one_group, build_optimiser, half_precision, learning_rate, take_step
from glassrt.training.run import Run
from glassrt.training.validation import is_due, is_over
from glassrt.training.world import World

# With them a method is written.
__all__ = ["Bags", "Example", "Group", "Progress", "Random", "Task", "epoch_steps", "fit", "shuffled"]

Progress = Callable[[int, float], None]
Inputs = TypeVar("Inputs")


class Task(NamedTuple, Generic[Inputs]):
    """What one network learns.

    `build()` makes the network, with the weights it starts from. `draw(number, random)` makes the number-th example
    of the run from its own random numbers. `loss(network, inputs, labels, step)` takes the examples' inputs: a tensor
    `[N, 3, H, W]` of RGB in 0..255, `Bags` of such images or of features, or a dict of these by name; and the stacked
    labels. Of losses by name the sum is minimised and each is logged; one that needs no gradient is logged alone.
    `picture(network, inputs, labels)` shows a batch as one RGB picture, where it has pixels. `validate(network)`
    returns the score, the higher the better, of a network in evaluation mode; every process calls it and the first
    one's score counts. `groups(network)` are parameters with learning rates of their own. `after(steps, network)` is
    told by every process how many steps were taken, with the averaged network in evaluation mode, before they are
    saved. `least` is the fewest examples that a process can learn from at once: two for batch norm, one where an
    example is a bag.
    """

    build: Callable[[], nn.Module]
    draw: Draw
    loss: Callable[[nn.Module, Inputs, Tensor, int], Tensor | Mapping[str, Tensor]]
    picture: Callable[[nn.Module, Inputs, Tensor], NDArray[np.uint8]] | None = None
    validate: Callable[[nn.Module], float] | None = None
    groups: Callable[[nn.Module], Sequence[Group]] = as_one_group
    after: Callable[[int, nn.Module], None] | None = None
    least: int = 2


def fit(
    task: Task[Inputs], schedule: Schedule, run: Run, world: World, progress: Progress = lambda step, loss: None
) -> None:
    """Train to the end, resuming where the run stopped; leaves the averaged weights in `run.model`, with validation
    those of the highest score.

    `progress` is called after each step with its number and loss. Raises TrainingError or OutputError.
    """
    share = world.part(schedule.batch, task.least)
    if bool(task.validate) != bool(schedule.validation):
        remedy = "set every in [validation]" if task.validate else "leave out [validation]: there is no validation set"
        raise TrainingError(f"{run.folder}: {remedy}")
    torch.manual_seed(schedule.seed)
    network = task.build().to(world.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(schedule.average_decay), use_buffers=True)
    optimiser = build_optimiser(network, task.groups(network), schedule)
    first, best = run.resume(network, average, optimiser)
    learner = world.share(network)
    with run.open_log(first, world.leads) as log, batches(task.draw, schedule, first, share, world) as drawn:
        for step, (inputs, labels, sources) in enumerate(drawn, start=first):
            torch.manual_seed(schedule.seed + step * world.size + world.rank)  # dropout, the same after a resume
            rate = learning_rate(step, schedule)
            with half_precision(world.device):
                loss, parts = add_up(task.loss(learner, inputs, labels, step))
            value = world.mean(loss)
            if not math.isfinite(value):
                raise diverged(run, step, value, sources if not loss.isfinite() else ["what another process drew"])
            take_step(optimiser, loss, rate)
            average.update_parameters(network)
            values = {name: world.mean(part) for name, part in parts.items()}
            score = None
            if task.validate and is_due(step, schedule):
                with torch.no_grad():
                    score = world.agree(task.validate(average.module.eval()))
                best = best.after(score, average.module, f"{run.folder}, step {step}")
            if task.after:
                task.after(step + 1, average.module.eval())
            over = is_over(step, best, schedule)
            if log is not None:
                log.write(step, value, rate, values, score)
                if task.picture and ((step + 1) % schedule.sample_every == 0 or over):
                    log.show(step, task.picture(average.module, inputs, labels))
                if (step + 1) % schedule.save_every == 0 and not over:
                    log.flush()
                    run.save(step + 1, network, average, optimiser, best)
                progress(step, value)
            if over:
                break
    if best.weights:
        average.module.load_state_dict(best.weights)
    if world.leads:
        run.finish(average.module)
    world.wait()


def add_up(losses: Tensor | Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
    """What is minimised, and its parts by name."""
    if isinstance(losses, Tensor):
        return losses, {}
    return torch.stack([each for each in losses.values() if each.requires_grad]).sum(), losses


def diverged(run: Run, step: int, loss: float, sources: Sequence[str]) -> TrainingError:
    """What to say of a loss that is no number."""
    return TrainingError(
        f"{run.folder}: the loss became {loss} at step {step}, on {', '.join(sorted(set(sources)))}; "
        "look at these files, or lower learning_rate and choose another --out"
    )
