"""The losses on bags against plain float64 statements of Eqs. 3 to 6, bag by bag and instance by instance."""

import msgspec
import pytest
import torch
from plain_bags import stated_student, stated_teacher
from torch import Tensor

from glassrt.training import bag_losses
from glassrt.training.bag_changes import Changes, NoiseRange, Regularisation, draw_changes
from glassrt.training.bag_losses import Distillation
from glassrt.training.batches import Bags
from glassrt.training.networks.mil import Design, MilNetwork, Predicted

SIZES = [3, 1, 40, 2]
WIDTH = 5


def network_for(classes: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> MilNetwork:
    torch.manual_seed(seed)
    network = MilNetwork(classes, Design(None, WIDTH, attention=4))
    network.normalise_by(torch.randn(WIDTH), torch.rand(WIDTH) + 0.5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    return network.to(dtype)


def example(classes: int, seed: int = 0) -> tuple[Bags, Tensor]:
    random = torch.Generator().manual_seed(seed)
    instances = torch.randn(sum(SIZES), WIDTH, generator=random, dtype=torch.float64)
    return Bags(instances, SIZES), torch.tensor([0, 1, classes - 1, 0])


def drawn(bags: Bags, settings: Regularisation, seed: int = 0) -> Changes:
    noise_range = NoiseRange(bags.instances.amin(0), bags.instances.amax(0))
    return draw_changes(bags, settings, noise_range, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@torch.no_grad()
def test_the_teachers_loss_is_its_equation(classes: int, seed: int, dtype: torch.dtype) -> None:
    network, (bags, labels) = network_for(classes, dtype, seed), example(classes, seed)
    bags = Bags(bags.instances.to(dtype), bags.sizes)
    settings = Regularisation(bag=0.8, noise=0.7, ball=0.4, entropy=0.2, rms=0.3, kept=(0.1, 0.6), realisations=3)
    changes = drawn(bags, settings, seed)
    found = bag_losses.regularised(network(bags, changes), labels, settings)
    exact = changes._replace(
        noise=changes.noise._replace(instances=changes.noise.instances.double()),  # type: ignore[union-attr]
        ball=changes.ball.double(),  # type: ignore[union-attr]
    )
    wide = Bags(bags.instances.double(), bags.sizes)
    wanted = stated_teacher(network.double(), wide, labels, exact, settings, classes)
    assert {name: each.item() for name, each in found.items()} == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_the_entropys_weight_may_rise() -> None:
    settings = Regularisation(entropy=0.4, entropy_rise_steps=100)
    assert [settings.at(step).entropy for step in (0, 25, 100, 999)] == [0.0, 0.1, 0.4, 0.4]
    network, (bags, labels) = network_for(2), example(2)
    predicted = network(bags, drawn(bags, settings))
    first, last = (bag_losses.regularised(predicted, labels, settings.at(step)) for step in (0, 100))
    assert {*first} == {*last}  # each step logs the same terms
    assert first["entropy"] == 0 < last["entropy"]
    assert b"entropy_rise_steps" not in msgspec.json.encode(Regularisation())  # runs from before know theirs


def test_the_bags_own_predictions_are_constants_in_the_consistency_terms() -> None:
    """Their gradient is that of a network whose unchanged half does not learn."""
    settings = Regularisation(entropy=0)
    network, (bags, labels) = network_for(2), example(2)
    changes = drawn(bags, settings)
    predicted = network(bags, changes)
    loss = bag_losses.regularised(predicted, labels, settings)
    found = torch.autograd.grad(loss["noise"] + loss["ball"], list(network.parameters()), retain_graph=True)
    target = torch.cat([1 - predicted.bags.sigmoid(), predicted.bags.sigmoid()], 1).detach()
    apart = [network(bags, changes._replace(**each)) for each in ({"ball": None}, {"noise": None})]
    assert apart[0].perturbed is None
    assert apart[1].noisy is None
    noisy, perturbed = (
        -(target * torch.cat([(-each).sigmoid().log(), each.sigmoid().log()], 1)).sum(1).mean()
        for each in (apart[0].noisy, apart[1].perturbed)
    )
    wanted = torch.autograd.grad(settings.noise * noisy + settings.ball * perturbed, list(network.parameters()))
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-14)


def test_terms_without_weight_are_not_computed() -> None:
    settings = Regularisation(noise=0, ball=0, entropy=0)
    network, (bags, labels) = network_for(2), example(2)
    changes = drawn(bags, settings)
    assert changes == Changes()
    predicted = network(bags, changes)
    loss = bag_losses.regularised(predicted, labels, settings)
    assert loss.keys() == {"bag"}
    plain = torch.nn.functional.binary_cross_entropy_with_logits(predicted.bags[:, 0], labels.double())
    assert loss["bag"].item() == pytest.approx(plain.item(), rel=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("instances", ["mean", "sum"])
@pytest.mark.parametrize("true_negatives", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@torch.no_grad()
def test_the_students_loss_is_its_equations(
    classes: int, instances: str, true_negatives: bool, temperature: float
) -> None:
    settings = msgspec.convert(
        {"instances": instances, "true_negatives": true_negatives, "temperature": temperature}, Distillation
    )
    bags, labels = example(classes, 4)
    student, teacher = (network_for(classes, seed=seed)(bags) for seed in (1, 2))
    found = bag_losses.distilled(student, teacher, SIZES, labels, settings)
    wanted = stated_student(student, teacher, SIZES, labels, settings, classes)
    assert {name: each.item() for name, each in found.items()} == pytest.approx(wanted, rel=1e-9)
    narrow = [Predicted(*(each.float() for each in one[:3])) for one in (student, teacher)]
    found = bag_losses.distilled(*narrow, SIZES, labels, settings)
    assert {name: each.item() for name, each in found.items()} == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_a_student_that_is_its_teacher_differs_in_nothing_and_the_teacher_does_not_learn() -> None:
    bags, labels = example(2)
    student, teacher = network_for(2), network_for(2)
    with torch.no_grad():
        teacher.head.scorer.classify.bias.add_(1)
    loss = bag_losses.distilled(student(bags), teacher(bags), SIZES, labels, Distillation())
    torch.stack(list(loss.values())).sum().backward()
    assert all(each.grad is None for each in teacher.parameters())
    assert all(each.grad is not None and bool(each.grad.any()) for each in student.parameters())
    same = bag_losses.distilled(student(bags), student(bags), SIZES, labels, Distillation())
    assert same["bag_divergence"].item() == pytest.approx(0, abs=1e-12)
    assert same["instance_divergence"].item() == pytest.approx(0, abs=1e-12)


def test_a_bag_of_one_costs_what_its_instance_does() -> None:
    bags, labels = example(2)
    singles, each = [1] * sum(SIZES), labels.repeat_interleave(torch.tensor(SIZES))
    alone = Bags(bags.instances, singles)
    student, teacher = (network_for(2, seed=seed)(alone) for seed in (1, 2))
    loss = bag_losses.distilled(student, teacher, singles, each, Distillation())
    assert loss["instance_divergence"].item() == pytest.approx(loss["bag_divergence"].item(), rel=1e-12)


@pytest.mark.parametrize("order", [[3, 1, 0, 2], [1, 2, 3, 0]])
def test_the_order_of_bags_and_of_their_instances_costs_nothing(order: list[int]) -> None:
    bags, labels = example(2)
    settings = Regularisation()
    changes, network = drawn(bags, settings), network_for(2)
    assert changes.noise is not None
    assert changes.ball is not None
    assert changes.kept is not None
    random = torch.Generator().manual_seed(9)
    starts = [0, 3, 4, 44]
    places = torch.cat([starts[bag] + torch.randperm(SIZES[bag], generator=random) for bag in order])
    mixed = Bags(bags.instances[places], [SIZES[bag] for bag in order])
    noise = changes.noise._replace(bags=torch.tensor([order.index(int(bag)) for bag in changes.noise.bags]))
    moved = Changes(noise, changes.ball[places], False, changes.kept[:, places])
    one = bag_losses.regularised(network(bags, changes), labels, settings)
    other = bag_losses.regularised(network(mixed, moved), labels[order], settings)
    for name in one:
        assert other[name].item() == pytest.approx(one[name].item(), rel=1e-12), name


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("size", [80.0, -80.0])
def test_certain_logits_and_bags_of_one_have_finite_gradients(classes: int, size: float) -> None:
    """Right and wrong ones, of teacher and student, in float32."""
    count = 1 if classes == 2 else classes
    sizes, labels = [1, 2, 1], torch.tensor([0, 1, 1])
    signs = torch.tensor([1.0, -1.0, 0.0, 1.0])
    instances = (size * signs[:, None] * torch.linspace(1, -1, count)).requires_grad_()
    bags = instances[[0, 1, 3]]
    student = Predicted(bags, torch.ones(4), instances, -bags, bags / 2, torch.cat([bags, -bags]))
    teacher = Predicted(-bags, torch.ones(4), -instances)
    for settings in (Distillation(), Distillation(true_negatives=True, instances="sum", temperature=0.5)):
        losses = [
            *bag_losses.regularised(student, labels, Regularisation()).values(),
            *bag_losses.distilled(student, teacher, sizes, labels, settings).values(),
        ]
        for loss in losses:
            assert loss.isfinite()
            (gradient,) = torch.autograd.grad(loss, instances, retain_graph=True)
            assert gradient.isfinite().all()


@pytest.mark.parametrize("classes", [2, 3])
def test_gradients_are_those_of_the_losses(classes: int) -> None:
    bags, labels = example(classes)
    with torch.no_grad():
        teacher = network_for(classes, seed=1)(bags)
    network = network_for(classes)
    changes, settings = drawn(bags, Regularisation()), Regularisation()
    weight = network.head.scorer.classify.weight.detach().clone().requires_grad_()

    def entropies_and_distances(weight: Tensor) -> Tensor:
        predicted: Predicted = torch.func.functional_call(
            network, {"head.scorer.classify.weight": weight}, (bags, changes)
        )
        terms = bag_losses.regularised(predicted, labels, settings)
        student = bag_losses.distilled(predicted, teacher, SIZES, labels, Distillation())
        return torch.stack([terms["bag"], terms["entropy"], *student.values()])

    assert torch.autograd.gradcheck(entropies_and_distances, (weight,))


@pytest.mark.parametrize("regularise", [False, True])
def test_labels_of_bags_teach_which_instances_are_positive(regularise: bool) -> None:
    """One feature of five tells positive instances; a student that starts anew learns them from its teacher."""
    random = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 12, (80,), generator=random).tolist()
    labels = torch.arange(80) % 2
    index = torch.arange(80).repeat_interleave(torch.tensor(sizes))
    first = torch.cat([torch.ones(1, dtype=torch.bool), index[1:] != index[:-1]])
    positive = (first | (torch.rand(len(index), generator=random) < 0.2)) & (labels[index] == 1)
    instances = torch.randn(len(index), WIDTH, generator=random)
    instances[:, 2] = torch.where(positive, 4.0, instances[:, 2])
    bags = Bags(instances, sizes)
    settings = Regularisation() if regularise else Regularisation(noise=0, ball=0, entropy=0)
    torch.manual_seed(0)
    teacher, student = (MilNetwork(2, Design(None, WIDTH, attention=4)) for _ in range(2))
    for network in (teacher, student):
        optimiser = torch.optim.Adam(network.parameters(), 0.1)
        for step in range(100):
            if network is teacher:
                loss = bag_losses.regularised(network(bags, drawn(bags, settings, step)), labels, settings)
            else:
                loss = bag_losses.distilled(network(bags), teacher(bags), sizes, labels, Distillation())
            optimiser.zero_grad()
            torch.stack(list(loss.values())).sum().backward()
            optimiser.step()
        logits = network(bags).instances[:, 0]
        assert (logits[positive][:, None] > logits[~positive]).float().mean() > 0.95
