"""What is drawn to change bags: how much, in which range, the same from the same seed."""

import math

import pytest
import torch
from torch import Tensor

from glassrt.training.bag_changes import (
    Changes,
    NoiseRange,
    Regularisation,
    draw_ball,
    draw_changes,
    draw_kept,
    draw_noise,
)
from glassrt.training.batches import Bags
from glassrt.training.networks.mil import Design, MilNetwork
from glassrt.training.soft_targets import cross_entropy, log_probabilities

SIZES = [1, 2, 7, 200]


def bags_of(*shape: int, sizes: list[int] = SIZES) -> Bags:
    return Bags(torch.randn(sum(sizes), *shape, generator=torch.Generator().manual_seed(0)), sizes)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(3, 4, 4), (5,)])
def test_noise_lies_in_its_channels_range_and_comes_in_any_number_up_to_a_share(shape: tuple[int, ...]) -> None:
    low = torch.arange(shape[0]) * 10.0
    counts: list[set[int]] = [set() for _ in SIZES]
    for seed in range(400):
        noise = draw_noise(bags_of(*shape), NoiseRange(low, low + 4), 0.5, seeded(seed))
        for bag, seen in enumerate(counts):
            seen.add(int((noise.bags == bag).sum()))
    expected = [{1}, {1}, {1, 2, 3}]
    assert counts[:3] == expected
    assert (min(counts[3]), max(counts[3])) == (1, 100)
    assert noise.instances.shape == (len(noise.bags), *shape)
    values = noise.instances.transpose(0, 1).flatten(1)
    assert (low <= values.T).all()
    assert (low + 4 >= values.T).all()
    assert torch.allclose(values.mean(1), low + 2, atol=6 * 4 / math.sqrt(12 * values.shape[1]))


@pytest.mark.parametrize("shape", [(3, 4, 4), (5,)])
def test_every_instance_is_moved_as_far_in_a_direction_of_its_own(shape: tuple[int, ...]) -> None:
    ball = draw_ball(bags_of(*shape).instances, 0.1, seeded(1)).flatten(1)
    assert torch.allclose(ball.square().mean(1).sqrt(), torch.tensor(0.1), rtol=1e-5)
    cosines = torch.nn.functional.normalize(ball) @ torch.nn.functional.normalize(ball).T
    assert cosines.fill_diagonal_(0).max() < 0.999
    assert ball.mean().abs() < 0.01


def balls_of(network: MilNetwork, bags: Bags, changes: Changes) -> list[Tensor]:
    """What was added to the normalised instances in each pass over perturbed ones, in order."""
    seen = []
    hook = network.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    network(bags, changes)
    hook.remove()
    return [(each - bags.instances) / network.input_std for each in seen[1:]]


def test_a_step_uphill_goes_as_far_and_changes_the_bag_more() -> None:
    torch.manual_seed(0)
    network, bags = MilNetwork(2, Design(None, 50, attention=8)), bags_of(50)
    network.normalise_by(torch.zeros(50), torch.full((50,), 3.0))
    drawn = Changes(ball=draw_ball(bags.instances, 0.1, seeded(2)))
    moved = []
    for changes in (drawn, drawn._replace(adversarial=True)):
        predicted = network(bags, changes)
        target = log_probabilities(predicted.bags).exp()
        moved.append((cross_entropy(target, predicted.perturbed) - cross_entropy(target, predicted.bags)).sum().item())
    assert moved[1] > 2 * moved[0] > 0
    assert all(parameter.grad is None for parameter in network.parameters())
    tried, taken = balls_of(network, bags, drawn._replace(adversarial=True))
    assert drawn.ball is not None
    assert torch.allclose(tried, drawn.ball, atol=1e-6)
    assert torch.allclose(taken.square().mean(1).sqrt(), torch.tensor(0.1), rtol=1e-4)
    assert taken[0] @ tried[0] > 0  # of a bag of one a step downhill would lead back and past the minimum
    assert not torch.allclose(taken, tried, atol=1e-2)


def test_where_nothing_changes_there_is_no_step() -> None:
    """A classifier of zeros has no slope: the random perturbation stays."""
    network, bags = MilNetwork(2, Design(None, 50, attention=8)), bags_of(50)
    for parameter in network.head.scorer.classify.parameters():
        torch.nn.init.zeros_(parameter)
    changes = Changes(ball=draw_ball(bags.instances, 0.1, seeded(3)), adversarial=True)
    tried, taken = balls_of(network, bags, changes)
    assert torch.equal(taken, tried)
    assert tried.any()


def test_sub_bags_keep_a_share_of_every_bag_at_random() -> None:
    kept = draw_kept(bags_of(5), (0.01, 0.15), 2000, seeded(4))
    assert kept.shape == (2000, sum(SIZES))
    numbers = torch.stack([part.sum(1) for part in kept.split(SIZES, 1)])
    assert (numbers[:3] == 1).all()  # 15 % of seven is one
    assert (numbers[3].min(), numbers[3].max()) == (2, 30)
    assert numbers[3].float().mean().item() == pytest.approx(0.08 * 200, abs=0.6)
    for size, part in zip(SIZES, kept.split(SIZES, 1), strict=True):
        share = part.float().mean(0)
        expected = part.float().mean()
        assert (share - expected).abs().max() < 6 * math.sqrt(expected.item() * (1 - expected.item()) / 2000) + 1e-9, (
            size
        )


def test_sub_bags_leave_something_out_and_something_in() -> None:
    kept = draw_kept(bags_of(5), (0.99, 0.99), 20, seeded(5))
    assert [int(part.sum(1).max()) for part in kept.split(SIZES, 1)] == [1, 1, 6, 198]
    none = draw_kept(bags_of(5), (0.0, 0.0), 20, seeded(5))
    assert [int(part.sum(1).min()) for part in none.split(SIZES, 1)] == [1, 1, 1, 1]


def test_a_seed_fixes_everything_that_is_drawn() -> None:
    noise_range = NoiseRange(torch.zeros(3), torch.ones(3))
    bags = bags_of(3, 4, 4)
    one, same, other = (draw_changes(bags, Regularisation(), noise_range, seeded(seed)) for seed in (1, 1, 2))
    for first, second, third in (
        (one.ball, same.ball, other.ball),
        (one.kept, same.kept, other.kept),
        (one.noise.instances, same.noise.instances, other.noise.instances),  # type: ignore[union-attr]
    ):
        assert first is not None
        assert second is not None
        assert third is not None
        assert torch.equal(first, second)
        assert first.shape != third.shape or not torch.equal(first, third)


@pytest.mark.parametrize("kept", [(0.2, 0.1), (0.5, 1.0)])
def test_shares_that_are_no_part_are_refused(kept: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two shares of a bag, the lower first"):
        Regularisation(kept=kept)


@pytest.mark.parametrize("encoder", ["conv2", "resnet18"])
def test_pictures_are_changed_in_the_networks_own_units(encoder: str) -> None:
    """What is encoded: the bag, its noise, and the bag moved by the ball times the standard deviation of pixels."""
    torch.manual_seed(0)
    side = 27 if encoder == "conv2" else 32
    network = MilNetwork(2, Design(encoder)).eval()
    bags = Bags(255 * torch.rand(4, 3, side, side), [3, 1])
    changes = draw_changes(bags, Regularisation(), NoiseRange(torch.zeros(3), torch.full((3,), 255.0)), seeded(0))
    seen = []
    network.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(bags, changes)
    assert changes.noise is not None
    assert changes.ball is not None
    assert [len(each) for each in seen] == [4, len(changes.noise.instances), 4]
    assert torch.equal(seen[0], bags.instances)
    assert torch.equal(seen[1], changes.noise.instances)
    difference = (seen[2] - seen[0]) / network.input_std
    assert torch.allclose(difference, changes.ball, atol=1e-5)
