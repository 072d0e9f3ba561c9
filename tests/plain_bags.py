"""Distill-to-Label's equations bag by bag and instance by instance, in Python's float64."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from glassrt.training.bag_changes import Changes, Regularisation
from glassrt.training.bag_losses import Distillation
from glassrt.training.batches import Bags
from glassrt.training.networks.mil import MilNetwork, Predicted


def stated_probabilities(logits: Sequence[float]) -> list[float]:
    """All classes' probabilities: of a single logit those of both."""
    if len(logits) == 1:
        return [1 / (1 + math.exp(logits[0])), 1 / (1 + math.exp(-logits[0]))]
    powers = [math.exp(each) for each in logits]
    return [each / sum(powers) for each in powers]


def stated_cross_entropy(target: Sequence[float], found: Sequence[float]) -> float:
    return -sum(p * math.log(q) for p, q in zip(target, found, strict=True))


def stated_divergence(target: Sequence[float], found: Sequence[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(target, found, strict=True) if p > 0)


def certain(label: int, classes: int) -> list[float]:
    return [float(each == label) for each in range(classes)]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def stated_bag(network: MilNetwork, instances: Sequence[Tensor]) -> list[float]:
    """Class probabilities of one bag by Eqs. 1 and 2, from instances as the network's input has them."""
    scorer = network.head.scorer
    assert scorer.attend is not None
    v, u, w = scorer.attend.value.weight, scorer.attend.gate.weight, scorer.attend.weigh.weight[0]
    h = [(each - scorer.feature_mean[0]) / scorer.feature_std[0] for each in instances]
    powers = [math.exp(w @ (torch.tanh(v @ each) * torch.sigmoid(u @ each))) for each in h]
    z = sum(power / sum(powers) * each for power, each in zip(powers, h, strict=True))
    return stated_probabilities((scorer.classify.weight @ z + scorer.classify.bias).tolist())


def stated_teacher(
    network: MilNetwork, bags: Bags, labels: Tensor, changes: Changes, settings: Regularisation, classes: int
) -> dict[str, float]:
    """Eq. 3 for what was drawn, encoding everything anew."""
    terms: dict[str, list[float]] = {"bag": [], "noise": [], "ball": [], "entropy": []}
    begin = 0
    assert changes.noise is not None
    assert changes.ball is not None
    assert changes.kept is not None
    for bag, (size, label) in enumerate(zip(bags.sizes, labels.tolist(), strict=True)):
        places = range(begin, begin + size)
        own = [bags.instances[place] for place in places]
        noise = [each for each, of in zip(changes.noise.instances, changes.noise.bags, strict=True) if of == bag]
        moved = [bags.instances[place] + changes.ball[place] * network.input_std[0] for place in places]
        found = stated_bag(network, own)
        terms["bag"].append(stated_cross_entropy(certain(label, classes), found))
        terms["noise"].append(stated_cross_entropy(found, stated_bag(network, own + noise)))
        terms["ball"].append(stated_cross_entropy(found, stated_bag(network, moved)))
        for kept in changes.kept:
            part = stated_bag(network, [bags.instances[place] for place in places if kept[place]])
            terms["entropy"].append(stated_cross_entropy(part, part))
        begin += size
    return {name: getattr(settings, name) * mean(values) for name, values in terms.items()}


def stated_student(
    student: Predicted,
    teacher: Predicted,
    sizes: list[int],
    labels: Tensor,
    settings: Distillation,
    classes: int,
) -> dict[str, float]:
    """Eqs. 4 to 6 bag by bag, instance by instance."""
    tau = settings.temperature
    terms: dict[str, list[float]] = {"bag": [], "bag_divergence": [], "instance_divergence": [], "entropy": []}
    begin = 0
    for bag, (size, label) in enumerate(zip(sizes, labels.tolist(), strict=True)):
        terms["bag"].append(
            stated_cross_entropy(certain(label, classes), stated_probabilities(student.bags[bag].tolist()))
        )
        softened = [stated_probabilities((each.bags[bag] / tau).tolist()) for each in (teacher, student)]
        terms["bag_divergence"].append(stated_divergence(*softened))
        distances, entropies = [], []
        for place in range(begin, begin + size):
            target, found = (
                stated_probabilities((each.instances[place] / tau).tolist()) for each in (teacher, student)
            )
            if settings.true_negatives and label == 0:
                target = certain(0, classes)
            distances.append(stated_divergence(target, found))
            plain = stated_probabilities(student.instances[place].tolist())
            entropies.append(stated_cross_entropy(plain, plain))
        over = mean if settings.instances == "mean" else sum
        terms["instance_divergence"].append(over(distances))
        terms["entropy"].append(over(entropies))
        begin += size
    return {name: getattr(settings, name) * mean(values) for name, values in terms.items()}
