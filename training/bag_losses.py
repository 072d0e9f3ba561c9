"""Losses on bags of instances: the teacher's and the student's.

Source: "Distill-to-Label", Eqs. 3 to 6. A batch of bags costs the mean of what each would alone. Bags may differ in
size; none is padded. Losses come by name, weighted, for their sum to be minimised. Labels are `[B]` (int64); bags and
instances of class 0 are negative.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from torch import Tensor

from glassrt.training.bag_changes import Regularisation
from glassrt.training.config import Strict, Weight
from glassrt.training.networks.mil import Predicted
from glassrt.training.segments import number_bags, segment_mean, segment_sum
from glassrt.training.soft_targets import cross_entropy, divergence, entropy, log_probabilities, one_hot


class Distillation(Strict, frozen=True, kw_only=True):
    """Weights of the terms of Eq. 5, the paper's, and what it leaves open.

    `temperature` is tau of Eq. 4, whose square multiplies nothing. The printed `sum` over a bag's instances drowns the
    bag's own label where bags are large: the student is then the teacher's copy. With `true_negatives` the instances
    of a negative bag are held to class 0 instead of to the teacher, which multiple instance learning says they are.
    """

    bag: Weight = 0.3
    bag_divergence: Weight = 0.5
    instance_divergence: Weight = 0.5
    entropy: Weight = 0.1
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    instances: Literal["mean", "sum"] = "mean"
    true_negatives: bool = False


def regularised(predicted: Predicted, labels: Tensor, settings: Regularisation) -> Mapping[str, Tensor]:
    """The teacher's loss (Eq. 3) of what a network gave for bags and their `draw_changes`.

    `bag` is the cross-entropy with the labels; `noise` and `ball` those of the changed bags' predictions with the
    bags' own, which are constants to the gradient; `entropy` that of the predictions for sub-bags.
    """
    target = log_probabilities(predicted.bags).exp().detach()
    terms = {"bag": settings.bag * cross_entropy(one_hot(labels, predicted.bags), predicted.bags).mean()}
    if predicted.noisy is not None:
        terms["noise"] = settings.noise * cross_entropy(target, predicted.noisy).mean()
    if predicted.perturbed is not None:
        terms["ball"] = settings.ball * cross_entropy(target, predicted.perturbed).mean()
    if predicted.reduced is not None:
        terms["entropy"] = settings.entropy * entropy(predicted.reduced).mean()
    return terms


def distilled(
    student: Predicted, teacher: Predicted, sizes: list[int], labels: Tensor, settings: Distillation
) -> Mapping[str, Tensor]:
    """The student's loss (Eqs. 4 to 6) of what both networks gave for bags of these sizes; the teacher is constant.

    The two terms over instances are each bag's mean or sum.
    """
    tau = settings.temperature
    index, count = number_bags(sizes, labels.device), len(sizes)
    over_instances = segment_mean if settings.instances == "mean" else segment_sum
    bag_target, target = (log_probabilities(each.detach() / tau).exp() for each in (teacher.bags, teacher.instances))
    if settings.true_negatives:
        known = one_hot(labels, student.bags)[index].to(target.dtype)
        target = known.where((labels == 0)[index][:, None], target)
    per_bag = {
        "bag": settings.bag * cross_entropy(one_hot(labels, student.bags), student.bags),
        "bag_divergence": settings.bag_divergence * divergence(bag_target, student.bags / tau),
        "instance_divergence": settings.instance_divergence
        * over_instances(divergence(target, student.instances / tau), index, count),
        "entropy": settings.entropy * over_instances(entropy(student.instances), index, count),
    }
    return {name: losses.mean() for name, losses in per_bag.items()}
