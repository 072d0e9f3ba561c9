"""Networks for bags: Eqs. 1 and 2, what a bag's logit is made of, bags of one, extractors."""

import pytest
import torch
from torch import Tensor, nn

from glassrt.engine.errors import TrainingError
from glassrt.training.batches import Bags
from glassrt.training.networks.bag_head import POOLINGS, BagHead, Pooling
from glassrt.training.networks.extractors import LAYOUTS
from glassrt.training.networks.mil import Design, MilNetwork

SIZES = [3, 1, 6, 1, 2]


def stored(pooling: Pooling = "attention", classes: int = 2, seed: int = 0) -> MilNetwork:
    """A network for stored features, in float64, as if it had learned something."""
    torch.manual_seed(seed)
    network = MilNetwork(classes, Design(None, 7, pooling, attention=4)).double().eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    network.normalise_by(torch.randn(7), torch.rand(7) + 0.5)
    return network


def features(sizes: list[int], seed: int = 0) -> Bags:
    random = torch.Generator().manual_seed(seed)
    return Bags(torch.randn(sum(sizes), 7, generator=random, dtype=torch.float64), sizes)


def patches(side: int, sizes: list[int], seed: int = 0) -> Bags:
    return Bags(255 * torch.rand(sum(sizes), 3, side, side, generator=torch.Generator().manual_seed(seed)), sizes)


@pytest.mark.parametrize("classes", [2, 3])
def test_attention_is_its_equations(classes: int) -> None:
    """Eqs. 1 and 2 instance by instance: the bag's logits are the classifier's on the weighted mean of features."""
    network, bags = stored(classes=classes), features(SIZES)
    scorer = network.head.scorer
    found = network(bags)
    assert scorer.attend is not None
    v, u, w = scorer.attend.value.weight, scorer.attend.gate.weight, scorer.attend.weigh.weight[0]
    begin = 0
    for bag, size in enumerate(SIZES):
        h = [(each - scorer.feature_mean[0]) / scorer.feature_std[0] for each in bags.instances[begin : begin + size]]
        powers = [torch.exp(w @ (torch.tanh(v @ each) * torch.sigmoid(u @ each))) for each in h]
        attention = [each / sum(powers) for each in powers]
        z = torch.stack([weight * each for weight, each in zip(attention, h, strict=True)]).sum(0)
        assert torch.allclose(found.attention[begin : begin + size], torch.stack(attention), rtol=1e-12, atol=0)
        assert torch.allclose(found.bags[bag], scorer.classify(z), rtol=0, atol=1e-12)
        begin += size
    assert found.bags.shape == (len(SIZES), 1 if classes == 2 else classes)


@pytest.mark.parametrize("classes", [2, 4])
def test_baselines_take_the_mean_and_the_highest_instance(classes: int) -> None:
    bags = features(SIZES)
    begin = 0
    mean, highest = (stored(pooling, classes)(bags) for pooling in ("mean", "max"))
    for bag, size in enumerate(SIZES):
        mine = slice(begin, begin + size)
        assert torch.allclose(mean.bags[bag], mean.instances[mine].mean(0), atol=1e-12)
        of_class = highest.instances[mine] if classes == 2 else highest.instances[mine].softmax(1)
        first = int(of_class.amax(1).argmax())
        assert torch.equal(highest.bags[bag], highest.instances[mine][first])
        assert highest.attention[mine].tolist() == [float(each == first) for each in range(size)]
        begin += size


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_bag_is_the_weighted_sum_of_its_instances_in_any_order(pooling: Pooling, classes: int) -> None:
    network, bags = stored(pooling, classes), features(SIZES)
    found = network(bags)
    for logits, weights, mine in zip(
        found.bags, found.attention.split(SIZES), found.instances.split(SIZES), strict=True
    ):
        assert weights.sum().item() == pytest.approx(1, abs=1e-12)
        assert torch.allclose(logits, weights @ mine, atol=1e-12)
    random = torch.Generator().manual_seed(3)
    order = torch.cat(
        [begin + torch.randperm(size, generator=random) for begin, size in zip([0, 3, 4, 10, 11], SIZES, strict=True)]
    )
    mixed = network(Bags(bags.instances[order], SIZES))
    assert torch.allclose(mixed.bags, found.bags, atol=1e-12)
    assert torch.allclose(mixed.attention, found.attention[order], atol=1e-12)
    assert torch.allclose(mixed.instances, found.instances[order], atol=1e-12)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_bag_of_one_is_its_instance(pooling: Pooling) -> None:
    network, bags = stored(pooling), features(SIZES)
    alone = network(Bags(bags.instances, [1] * sum(SIZES)))
    assert torch.equal(alone.attention, torch.ones(sum(SIZES), dtype=torch.float64))
    assert torch.equal(alone.bags, alone.instances)
    assert torch.allclose(alone.bags, network(bags).instances, atol=1e-12)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_serves_a_bag_as_training_sees_it(pooling: Pooling, classes: int) -> None:
    network, bags = stored(pooling, classes), features(SIZES)
    found = network(bags)
    for bag, (given, weights, mine) in enumerate(
        zip(bags.instances.split(SIZES), found.attention.split(SIZES), found.instances.split(SIZES), strict=True)
    ):
        probability, attention, instances = network.head(network.encoder(given))
        meant = [each.sigmoid() if classes == 2 else each.softmax(-1) for each in (found.bags[bag], mine)]
        assert torch.allclose(probability, meant[0], atol=1e-12)
        assert torch.allclose(instances, meant[1], atol=1e-12)
        assert torch.allclose(attention, weights, atol=1e-12)


def test_equal_highest_instances_share_attention() -> None:
    head = BagHead(7, 2, "max").double()
    once = features([2]).instances
    given = torch.cat([once, once])
    _, attention, _ = head(given)
    assert sorted(attention.tolist()) == [0, 0, 0.5, 0.5]
    pooled = head.pool(head.scorer(given), torch.zeros(4, dtype=torch.int64), 1)
    assert torch.equal(pooled.attention, attention)


@pytest.mark.parametrize(
    ("encoder", "side", "flat", "channels"),
    [("lenet5", 28, 800, 500), ("conv2", 27, 1200, 512), ("conv5", 32, 128, 512)],
)
def test_the_papers_extractors_have_the_published_layers(encoder: str, side: int, flat: int, channels: int) -> None:
    network = MilNetwork(2, Design(encoder)).eval()
    connected = [each for each in network.encoder.modules() if isinstance(each, nn.Linear)]
    convolved = [each for each in network.encoder.modules() if isinstance(each, nn.Conv2d)]
    assert connected[0].in_features == flat
    assert len(convolved) == {"lenet5": 2, "conv2": 2, "conv5": 5}[encoder] == len(LAYOUTS[encoder].convolutions)
    bags = patches(side, [3, 1])
    assert network.encoder(bags.instances).shape == (4, channels)
    assert network(bags).bags.shape == (2, 1)
    with pytest.raises(ValueError, match=f"instances of {side + 1} x {side + 1} px: the network takes {side} x {side}"):
        network(patches(side + 1, [1]))


@pytest.mark.parametrize("encoder", ["resnet18", "efficientnet_lite0"])
def test_encoders_by_name_are_averaged_over_their_last_map(encoder: str) -> None:
    network = MilNetwork(3, Design(encoder, frozen=True)).train()
    bags = patches(64, [2, 1])
    before = {name: value.clone() for name, value in network.named_buffers()}
    found = network(bags)
    assert found.bags.shape == (2, 3)
    last = network.encoder.encode(bags.instances)[-1]  # type: ignore[operator]
    assert torch.equal(network.encoder(bags.instances), last.mean((2, 3)))
    found.bags.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    assert any(each.grad is not None and bool(each.grad.any()) for each in network.encoder.parameters())
    with pytest.raises(TrainingError, match="keeps the statistics"):
        network.normalise_by(torch.zeros(3), torch.ones(3))


def scaled_by(bags: Bags, factor: float, shift: float) -> Bags:
    return Bags(bags.instances * factor + shift, bags.sizes)


@pytest.mark.parametrize("encoder", ["conv2", None])
def test_normalisation_is_the_networks_own_and_stored_with_it(encoder: str | None) -> None:
    """Data in other units, with statistics in these units, gives the same."""
    design = Design(encoder, None if encoder else 7, attention=4)
    network = MilNetwork(2, design).eval()
    bags = patches(27, [2, 1]) if encoder else Bags(features([2, 1]).instances.float(), [2, 1])
    axes = (0, 2, 3) if encoder else (0,)
    mean, std = bags.instances.mean(axes), bags.instances.std(axes)
    network.normalise_by(mean, std)
    found = network(bags).bags
    again = MilNetwork(2, design).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(bags).bags, found)
    again.normalise_by(mean * 3 + 10, std * 3)
    assert torch.allclose(again(scaled_by(bags, 3, 10)).bags, found, atol=1e-5)
    assert not torch.allclose(again(bags).bags, found, atol=1e-5)
    assert torch.equal(network.input_std.flatten(), std)


@pytest.mark.parametrize(
    ("classes", "design", "says"),
    [
        (2, Design("conv3"), "'conv3' is not known"),
        (2, Design("conv2", 7), "either `encoder`, or `features`"),
        (2, Design(None), "either `encoder`, or `features`"),
        (2, Design(None, 7, "median"), "'median' is not known"),  # type: ignore[arg-type]
        (1, Design(None, 7), "1 classes"),
    ],
)
def test_designs_that_do_not_exist_are_refused(classes: int, design: Design, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        MilNetwork(classes, design)


def test_a_network_that_does_not_learn_its_features_learns_its_head() -> None:
    network = MilNetwork(2, Design("conv2", encoder_learns=False)).train()
    network(patches(27, [2, 1])).bags.sum().backward()
    gradients: dict[str, Tensor | None] = {name: each.grad for name, each in network.named_parameters()}
    assert all((each is None) == name.startswith("encoder.") for name, each in gradients.items())


@pytest.mark.parametrize("pooling", POOLINGS)
def test_half_precision_reaches_no_further_than_the_layers(pooling: Pooling) -> None:
    """Bags are pooled in float32: a sum of thousands of weights would be nothing like 1 in bfloat16."""
    network, bags = stored(pooling).float(), features([3000, 2])
    given = Bags(bags.instances.float(), bags.sizes)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(given)
    assert {each.dtype for each in found if each is not None} == {torch.float32}
    assert [each.sum().item() for each in found.attention.split(bags.sizes)] == pytest.approx([1, 1], abs=1e-5)
