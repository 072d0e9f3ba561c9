"""Tasks that train in a second: bags, two weights that slide; and what stops them."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.training.batches import stack
from glassrt.training.config import Schedule
from glassrt.training.loop import Bags, Example, Random, Task, fit
from glassrt.training.run import Run
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))


def schedule(**changes: object) -> Schedule:
    """A constant rate of 0.1, and what a test changes."""
    plain = {
        "batch": 2,
        "steps": 12,
        "optimiser": "sgd",
        "learning_rate": 0.1,
        "weight_decay": 0.0,
        "phases": (1.0,),
    }
    return Schedule(**(plain | changes))  # type: ignore[arg-type]


def no_picture(network: nn.Module, inputs: Any, labels: Tensor) -> np.ndarray:
    return np.zeros((8, 8, 3), np.uint8)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as table:
        return list(csv.DictReader(table))


class AttentionPool(nn.Module):
    """One logit a bag: features of its images, weighted by a softmax over the bag."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 8, 4, stride=4)
        self.dropout = nn.Dropout(dropout)
        self.attention, self.classifier = nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, bags: Bags) -> Tensor:
        features = self.dropout(self.encoder(bags.instances / 255).relu().mean((2, 3)))
        pooled = [(part * self.attention(part).softmax(0)).sum(0) for part in features.split(bags.sizes)]
        return self.classifier(torch.stack(pooled)).squeeze(1)


def draw_bag(number: int, random: Random) -> Example:
    """One to six grey images; in every second bag one of them is red."""
    bag = np.repeat(random.integers(60, 200, (int(random.integers(1, 7)), 8, 8, 1), dtype=np.uint8), 3, axis=3)
    if number % 2:
        bag[random.integers(len(bag))] = (230, 20, 20)
    return Example(bag, np.array(number % 2, np.float32), f"bag {number}")


def bag_loss(network: nn.Module, bags: Bags, labels: Tensor, step: int) -> Tensor:
    return F.binary_cross_entropy_with_logits(network(bags), labels)


def bag_accuracy(network: nn.Module) -> float:
    bags = [draw_bag(number, np.random.default_rng(-number)) for number in range(-40, 0)]
    found = network(stack([each.inputs for each in bags], ALONE.device)) > 0
    return float((found.numpy() == [each.label for each in bags]).mean())


def bag_task(dropout: float = 0.0) -> Task[Bags]:
    return Task(lambda: AttentionPool(dropout), draw_bag, bag_loss, no_picture, bag_accuracy, least=1)


class Slider(nn.Module):
    """Two weights at 0. A loss that is their sum lets SGD with momentum slide each to -0.1, -0.29, -0.561, -0.9049,
    -1.31441, -1.782969, -2.3046721 and on, at rate 0.1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))


def draw_nothing(number: int, random: Random) -> Example:
    return Example(np.zeros((1, 1, 3), np.uint8), np.zeros(()), str(number))


def slide(network: nn.Module, pixels: Tensor, labels: Tensor, step: int) -> Mapping[str, Tensor]:
    assert isinstance(network, Slider)
    return {"one": network.first + 1, "two": network.second * 2}


def nearness(network: nn.Module) -> float:
    """The higher, the nearer the first weight is to -0.9."""
    assert isinstance(network, Slider)
    assert not network.training
    assert not torch.is_grad_enabled()
    return -abs(float(network.first) + 0.9)


SLIDE: Task[Tensor] = Task(Slider, draw_nothing, slide, no_picture, nearness)


def stop(task: Task[Any], settings: Schedule, folder: Path, after: int) -> None:
    """A run that is interrupted when step `after` is done."""

    def progress(step: int, loss: float) -> None:
        if step == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(task, settings, Run(folder, {}), ALONE, progress)
