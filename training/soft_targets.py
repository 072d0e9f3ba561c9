"""Probabilities of classes against one another, from logits: with a single logit for two classes, or one for each.

Logits are `[N, 1]`, for the probability of class 1 of two, or `[N, C]`; probabilities and targets `[N, 2]` or `[N, C]`.
All arithmetic is float32 or better, on logarithms, so that logits of hundreds stay finite in value and gradient.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from glassrt.training.losses import full_precision


def probabilities(logits: Tensor) -> Tensor:
    """What is served: the sigmoid of a single logit `[N, 1]`, the softmax of several, over the last axis."""
    return logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)


def log_probabilities(logits: Tensor) -> Tensor:
    """`[N, 2]` of single logits, `[N, C]` of several."""
    logits = full_precision(logits)
    if logits.shape[1] == 1:
        return torch.cat([F.logsigmoid(-logits), F.logsigmoid(logits)], 1)
    return logits.log_softmax(1)


def one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    """The labels `[N]` (int64) as probabilities of the classes that `logits` are of."""
    return F.one_hot(labels, max(2, logits.shape[1])).to(full_precision(logits).dtype)


def cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    """`[N]`: cross-entropy of the predictions under the target's probabilities; binary for single logits."""
    return -(target * log_probabilities(logits)).sum(1)


def entropy(logits: Tensor) -> Tensor:
    """`[N]`: the entropy of the predictions themselves."""
    logs = log_probabilities(logits)
    return -(logs.exp() * logs).sum(1)


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    """`[N]`: Kullback-Leibler divergence of the predictions from the target's probabilities, Eq. 6 for two classes.

    What the target holds for impossible adds nothing.
    """
    return torch.xlogy(target, target).sum(1) + cross_entropy(target, logits)
