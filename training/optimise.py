"""How weights change: optimisers, groups of parameters, learning rates, and the arithmetic of a step."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from glassrt.engine.errors import TrainingError
from glassrt.training.config import Schedule


class Group(NamedTuple):
    """Parameters that learn at `factor` times the schedule's rate, which is the one that is logged."""

    parameters: Iterable[nn.Parameter]
    factor: float


def as_one_group(network: nn.Module) -> Sequence[Group]:
    """All parameters at the schedule's rate."""
    return [Group(network.parameters(), 1.0)]


def build_optimiser(network: nn.Module, groups: Sequence[Group], schedule: Schedule) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, Adam (its weight decay an L2 term of the loss) or AdamW.

    Raises TrainingError unless each parameter of the network that needs gradients is in exactly one group.
    """
    settings = [{"params": list(group.parameters), "factor": group.factor} for group in groups]
    grouped = [id(parameter) for group in settings for parameter in group["params"]]  # type: ignore[attr-defined]
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and grouped.count(id(parameter)) != 1:
            raise TrainingError(f"the parameter {name} is in {grouped.count(id(parameter))} groups; it must be in one")
    rate, decay = schedule.learning_rate, schedule.weight_decay
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(settings, lr=rate, momentum=0.9, weight_decay=decay)
    if schedule.optimiser == "adam":
        return torch.optim.Adam(settings, lr=rate, weight_decay=decay)
    return torch.optim.AdamW(settings, lr=rate, weight_decay=decay)


def take_step(optimiser: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    """One update of the weights, each group's at its factor times the learning rate `rate`."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def learning_rate(step: int, schedule: Schedule) -> float:
    """Linear warm-up, then the schedule's `phases`, or polynomial decay with power 0.9."""
    warmup = min(1.0, (step + 1) / (schedule.warmup_steps + 1))
    if schedule.phases:
        return float(schedule.learning_rate * warmup * schedule.phases[step * len(schedule.phases) // schedule.steps])
    return float(schedule.learning_rate * warmup * (1 - step / schedule.steps) ** 0.9)


def half_precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where it is faster, on GPUs that compute in it; those that would emulate it train in float32."""
    enabled = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
