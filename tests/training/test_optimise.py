"""How weights change: rates and first steps against numbers worked out by hand, and the arithmetic of a step."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from glassrt.engine.errors import TrainingError
from glassrt.training.config import Schedule
from glassrt.training.optimise import Group, as_one_group, build_optimiser, half_precision, learning_rate, take_step


def schedule(**changes: object) -> Schedule:
    """Ten plain steps of SGD, and what a test changes about them."""
    plain = {"batch": 2, "steps": 10, "optimiser": "sgd", "learning_rate": 1.0, "weight_decay": 0.0}
    return Schedule(**(plain | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({}, {0: 1.0, 5: 0.5358867, 9: 0.1258925}),  # 1, 0.5 and 0.1 to the power 0.9
        ({"warmup_steps": 3}, {0: 0.25, 1: 0.75 * 2 / 3 * 0.9**0.9, 3: 0.7**0.9}),
        ({"phases": (1.0,)}, {0: 1.0, 9: 1.0}),
        ({"phases": (1.0, 0.1)}, {0: 1.0, 4: 1.0, 5: 0.1, 9: 0.1}),
        ({"phases": (1.0, 0.5, 0.2), "steps": 75}, {0: 1.0, 24: 1.0, 25: 0.5, 49: 0.5, 50: 0.2, 74: 0.2}),
        ({"phases": (1.0, 0.5), "warmup_steps": 3, "learning_rate": 0.4}, {0: 0.1, 2: 0.3, 3: 0.4, 5: 0.2}),
    ],
)
def test_the_rate_follows_the_schedule(changes: dict[str, object], rates: dict[int, float]) -> None:
    assert {step: learning_rate(step, schedule(**changes)) for step in rates} == pytest.approx(rates, rel=1e-6)


class Pair(nn.Module):
    """Two weights, an encoder and a decoder for what the optimiser can tell."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        for layer in (self.encoder, self.decoder):
            nn.init.constant_(layer.weight, 2.0)

    def values(self) -> tuple[float, float]:
        return float(self.encoder.weight.detach()), float(self.decoder.weight.detach())


@pytest.mark.parametrize(
    ("step", "encoder", "decoder"),
    [(0, 5e-4, 5e-3), (24, 5e-4, 5e-3), (25, 2.5e-4, 2.5e-3), (50, 1e-4, 1e-3), (74, 1e-4, 1e-3)],
)
def test_groups_move_at_rates_of_their_own(step: int, encoder: float, decoder: float) -> None:
    """The rates of DA-RefineNet (its section on training), seen in how far a gradient of 1 moves the weights."""
    network = Pair().double()
    settings = schedule(steps=75, learning_rate=5e-3, phases=(1.0, 0.5, 0.2))
    groups = [Group(network.encoder.parameters(), 0.1), Group(network.decoder.parameters(), 1.0)]
    optimiser = build_optimiser(network, groups, settings)
    take_step(optimiser, network.encoder.weight.sum() + network.decoder.weight.sum(), learning_rate(step, settings))
    assert network.values() == pytest.approx((2 - encoder, 2 - decoder), rel=1e-9)


@pytest.mark.parametrize(
    ("optimiser", "first", "second"),
    [
        # From 2 with gradient 3, rate 0.1 and decay 0.25.
        ("sgd", 2 - 0.1 * 3.5, 1.65 - 0.1 * (0.9 * 3.5 + 3 + 0.25 * 1.65)),  # momentum 0.9
        ("adam", 2 - 0.1, None),  # a first step is as long as the rate, whatever the gradient
        ("adamw", 2 * (1 - 0.1 * 0.25) - 0.1, 1.85 * (1 - 0.1 * 0.25) - 0.1),
    ],
)
def test_optimisers_take_the_steps_of_their_definitions(optimiser: str, first: float, second: float | None) -> None:
    network = Pair()
    settings = schedule(optimiser=optimiser, weight_decay=0.25)
    built = build_optimiser(network, as_one_group(network), settings)
    for wanted in filter(None, (first, second)):
        take_step(built, 3 * network.encoder.weight.sum(), 0.1)
        assert network.values() == pytest.approx((wanted, 2.0), rel=1e-6)


@pytest.mark.parametrize(
    ("parts", "says"), [(["encoder"], "decoder.weight is in 0"), (["encoder", "decoder", ""], "encoder.weight is in 2")]
)
def test_a_parameter_that_is_not_in_one_group_is_named(parts: list[str], says: str) -> None:
    network = Pair()
    groups = [Group(network.get_submodule(part).parameters(), 1.0) for part in parts]
    with pytest.raises(TrainingError, match=f"{says} groups; it must be in one"):
        build_optimiser(network, groups, schedule())


def test_a_frozen_part_needs_no_group() -> None:
    network = Pair()
    network.encoder.requires_grad_(False)
    built = build_optimiser(network, [Group(network.decoder.parameters(), 1.0)], schedule())
    take_step(built, network.encoder.weight.sum() + network.decoder.weight.sum(), 0.5)
    assert network.values() == (2.0, 1.5)


@pytest.mark.parametrize(("generation", "half"), [(7, False), (8, True), (9, True)], ids=["Turing", "Ampere", "Hopper"])
def test_a_gpu_that_would_emulate_bfloat16_trains_in_float32(
    generation: int, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch reads off a device is set; what it makes of that is its own."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=generation))
    with half_precision(torch.device("cuda:0")):
        assert torch.is_autocast_enabled("cuda") == half


def test_cpus_train_in_float32() -> None:
    with half_precision(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.gpu
def test_products_on_a_gpu_have_the_type_that_it_computes_in() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    ones = torch.ones(16, 16, device="cuda")
    wanted = torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float32
    with half_precision(ones.device):
        assert (ones @ ones).dtype == wanted
