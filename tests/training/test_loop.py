"""The loop on tasks that train in a second: bags, two inputs, named losses, validation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from toy_tasks import (
    ALONE,
    SLIDE,
    AttentionPool,
    Slider,
    bag_loss,
    bag_task,
    draw_bag,
    no_picture,
    rows,
    schedule,
    stop,
)

from glassrt.engine.errors import TrainingError
from glassrt.training import checkpoint
from glassrt.training.batches import stack
from glassrt.training.config import Schedule, Validation
from glassrt.training.loop import Bags, Example, Group, Random, Task, fit
from glassrt.training.run import Run


def test_a_bag_among_others_gives_what_it_gives_alone() -> None:
    network = AttentionPool(0.0)
    bags = [np.asarray(draw_bag(number, np.random.default_rng(number)).inputs) for number in range(8)]
    assert len({len(bag) for bag in bags}) > 2
    together = network(stack(bags, ALONE.device))
    alone = torch.cat([network(stack([bag], ALONE.device)) for bag in bags])
    assert torch.allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize(("batch", "steps"), [(1, 240), (4, 120)])
def test_bags_of_different_lengths_are_learnt(tmp_path: Path, batch: int, steps: int) -> None:
    settings = schedule(
        batch=batch, steps=steps, optimiser="adam", learning_rate=0.02, validation=Validation(every=steps)
    )
    fit(bag_task(), settings, Run(tmp_path, {}), ALONE)
    (row,) = rows(tmp_path / "validation.csv")
    assert row["step"] == str(steps - 1)
    assert float(row["score"]) > 0.9


class MeanPool(nn.Module):
    """One logit a bag: a weighted sum of its mean features."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(6, 1)

    def forward(self, bags: Bags) -> Tensor:
        means = torch.stack([part.mean(0) for part in bags.instances.split(bags.sizes)])
        logits: Tensor = self.classifier(means)
        return logits.squeeze(1)


def test_bags_of_stored_features_are_learnt_without_pictures(tmp_path: Path) -> None:
    def draw(number: int, random: Random) -> Example:
        features = random.normal(size=(int(random.integers(1, 9)), 6)).astype(np.float32)
        return Example(features, np.array(features[:, 2].mean() > 0, np.float32), str(number))

    task = Task(MeanPool, draw, bag_loss, least=1)
    fit(task, schedule(batch=4, steps=100, sample_every=10), Run(tmp_path, {}), ALONE)
    weights, _ = checkpoint.load(tmp_path / "model.safetensors")
    assert int(weights["classifier.weight"].argmax()) == 2
    assert not (tmp_path / "samples").exists()


class TwoInputs(nn.Module):
    """One number from a fine and a coarser view."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.context = nn.Conv2d(3, 1, 1), nn.Conv2d(3, 1, 1)

    def forward(self, fine: Tensor, context: Tensor) -> Tensor:
        return (self.fine(fine / 255).mean((1, 2, 3)) + self.context(context / 255).mean((1, 2, 3))).float()


def test_two_inputs_reach_the_network_by_name(tmp_path: Path) -> None:
    """The label is the difference of the two views' brightness, so neither is enough and they cannot be swapped."""

    def draw(number: int, random: Random) -> Example:
        fine, context = (np.full((side, side, 3), random.integers(256), np.uint8) for side in (8, 4))
        return Example(
            {"fine": fine, "context": context}, np.array((fine.mean() - context.mean()) / 255, np.float32), str(number)
        )

    def loss(network: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor, step: int) -> Tensor:
        return (network(**inputs) - labels).square().mean()

    fit(Task(TwoInputs, draw, loss, no_picture), schedule(batch=8, steps=100), Run(tmp_path, {}), ALONE)
    weights, _ = checkpoint.load(tmp_path / "model.safetensors")
    assert float(weights["fine.weight"].sum()) == pytest.approx(1, abs=0.1)
    assert float(weights["context.weight"].sum()) == pytest.approx(-1, abs=0.1)


def test_the_sum_of_named_losses_is_minimised_and_each_is_logged(tmp_path: Path) -> None:
    """The second weight slides twice as far as the first."""
    fit(SLIDE._replace(validate=None), schedule(steps=3), Run(tmp_path, {}), ALONE)
    assert rows(tmp_path / "metrics.csv") == [
        {"step": "0", "loss": "1.00000", "learning_rate": "0.1", "one": "1.00000", "two": "0.00000"},
        {"step": "1", "loss": "0.50000", "learning_rate": "0.1", "one": "0.90000", "two": "-0.40000"},
        {"step": "2", "loss": "-0.45000", "learning_rate": "0.1", "one": "0.71000", "two": "-1.16000"},
    ]
    weights, _ = checkpoint.load(tmp_path / "model.safetensors")
    assert float(weights["second"]) == pytest.approx(2 * float(weights["first"])) == pytest.approx(-1.122)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("two")] == pytest.approx([0, -0.4, -1.16])


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([("one", "two"), ("one",)], "are step, loss, learning_rate, one, two, but step 1 gives .*rate, one;"),
        ([("one", "two"), ("two", "one")], "step 1 gives step, loss, learning_rate, two, one;"),
        ([("one", "loss")], "step 0 gives step, loss, learning_rate, one, loss;"),
    ],
)
@pytest.mark.parametrize("resumed", [False, True])
def test_figures_never_stand_in_the_columns_of_others(
    tmp_path: Path, parts: list[tuple[str, ...]], says: str, resumed: bool
) -> None:
    def loss(network: nn.Module, pixels: Tensor, labels: Tensor, step: int) -> Mapping[str, Tensor]:
        values = {"one": network.first, "two": network.second, "loss": network.first}
        return {name: values[name] for name in parts[min(step, len(parts) - 1)]}  # type: ignore[misc]

    task, settings = SLIDE._replace(validate=None, loss=loss), schedule(save_every=1)
    if resumed and len(parts) > 1:
        stop(task, settings, tmp_path, 0)
    with pytest.raises(TrainingError, match=says):
        fit(task, settings, Run(tmp_path, {}), ALONE)


def test_groups_of_parameters_learn_at_their_own_rates(tmp_path: Path) -> None:
    def groups(network: nn.Module) -> list[Group]:
        assert isinstance(network, Slider)
        return [Group([network.first], 0.1), Group([network.second], 1.0)]

    settings = schedule(steps=4, phases=(1.0, 0.5))
    fit(SLIDE._replace(validate=None, groups=groups), settings, Run(tmp_path, {}), ALONE)
    weights, _ = checkpoint.load(tmp_path / "model.safetensors")
    # Velocities of 1, 1.9, 2.71 and 3.439 times the gradients 1 and 2, half as fast after two steps.
    assert float(weights["first"]) == pytest.approx(-0.01 * (1 + 1.9) - 0.005 * (2.71 + 3.439))
    assert float(weights["second"]) == pytest.approx(2 * (-0.1 * (1 + 1.9) - 0.05 * (2.71 + 3.439)))


@pytest.mark.parametrize(
    ("validation", "validated", "last", "served"),
    [
        (Validation(every=2, patience=1), [1, 3, 5], 5, -0.9049),
        (Validation(every=2, patience=2), [1, 3, 5, 7], 7, -0.9049),
        (Validation(every=3, patience=1), [2, 5], 5, -0.561),
        (Validation(every=2), [1, 3, 5, 7, 9, 11], 11, -0.9049),
        (Validation(every=5), [4, 9, 11], 11, -1.31441),
        (Validation(every=100), [11], 11, -5.5419),  # 12 - 9 * (1 - 0.9 ** 12)
    ],
)
def test_training_stops_in_time_and_serves_the_best_weights(
    tmp_path: Path, validation: Validation, validated: list[int], last: int, served: float
) -> None:
    fit(SLIDE, schedule(validation=validation), Run(tmp_path, {}), ALONE)
    assert [int(row["step"]) for row in rows(tmp_path / "validation.csv")] == validated
    assert [int(row["step"]) for row in rows(tmp_path / "metrics.csv")] == list(range(last + 1))
    weights, _ = checkpoint.load(tmp_path / "model.safetensors")
    assert float(weights["first"]) == pytest.approx(served, abs=1e-4)
    assert not (tmp_path / "state.safetensors").exists()
    assert [picture.name for picture in (tmp_path / "samples").iterdir()] == [f"step_{last + 1:06}.jpg"]


@pytest.mark.parametrize(
    ("changes", "settings", "says"),
    [
        ({}, schedule(), r"set every in \[validation\]"),
        ({"validate": None}, schedule(validation=Validation(every=1)), r"leave out \[validation\]"),
        ({}, schedule(validation=Validation(every=1), batch=1), "batch = 1 gives 1 processes no equal shares of 2"),
        (
            {"validate": lambda network: float("nan")},
            schedule(validation=Validation(every=2)),
            "fold 3, step 1: the validation score became nan",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(
    tmp_path: Path, changes: dict[str, Any], settings: Schedule, says: str
) -> None:
    folder = tmp_path / "fold 3"
    with pytest.raises(TrainingError, match=says):
        fit(SLIDE._replace(**changes), settings, Run(folder, {}), ALONE)
    assert not (folder / "model.safetensors").exists()
