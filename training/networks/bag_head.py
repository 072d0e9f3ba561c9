"""From the features of instances to what a bag is: scores, attention, one linear classifier.

Source: "Distill-to-Label", Eqs. 1 and 2; gated attention is that of Ilse et al., "Attention-based Deep Multiple
Instance Learning" (ICML 2018). Weights within a bag sum to 1 and the classifier is linear, so that the logits of a bag
are exactly the attention-weighted sum of its instances' logits: that is what is computed, and a bag of one instance
has that instance's logits.

Two classes have one logit, the sigmoid of which is the probability of class 1; more have a logit each, with softmax
over classes. Class 0 is the negative one.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from glassrt.engine.errors import TrainingError
from glassrt.training.losses import full_precision
from glassrt.training.segments import segment_max, segment_softmax, segment_sum
from glassrt.training.soft_targets import probabilities

Pooling = Literal["attention", "mean", "max"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


class Scored(NamedTuple):
    """Instances on their own: how much attention they ask for, `[N]`, and their logits `[N, 1 or C]`."""

    scores: Tensor
    logits: Tensor


class Pooled(NamedTuple):
    """Bags: their logits `[B, 1 or C]`, and the attention `[N]` of their instances, which sums to 1 in each."""

    logits: Tensor
    attention: Tensor


class GatedAttention(nn.Module):
    """Features `[N, d]` -> attention logits `[N]`: w (tanh(V h) x sigmoid(U h)), Eq. 2, which has no biases."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.value = nn.Linear(features, width, bias=False)
        self.gate = nn.Linear(features, width, bias=False)
        self.weigh = nn.Linear(width, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.weigh(self.value(features).tanh() * self.gate(features).sigmoid())
        return scores.squeeze(1)


class InstanceScorer(nn.Module):
    """Features `[N, d]` -> attention logits `[N]` and instance logits `[N, 1 or C]`, each instance on its own.

    The attention logits of `mean` are 0, those of `max` the instance's logit, or its highest probability where there
    are several classes. `feature_mean` and `feature_std` normalise features that were stored before; they stay 0 and 1
    where an encoder belongs to the network.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, features: int, classes: int, pooling: Pooling, width: int) -> None:
        super().__init__()
        self.pooling = pooling
        self.attend = GatedAttention(features, width) if pooling == "attention" else None
        self.classify = nn.Linear(features, 1 if classes == 2 else classes)
        self.register_buffer("feature_mean", torch.zeros(1, features))
        self.register_buffer("feature_std", torch.ones(1, features))

    def forward(self, features: Tensor) -> Scored:
        features = (features - self.feature_mean) / self.feature_std
        logits = full_precision(self.classify(features))
        if self.attend is not None:
            return Scored(full_precision(self.attend(features)), logits)
        if self.pooling == "mean":
            return Scored(torch.zeros_like(logits[:, 0]), logits)
        return Scored(logits[:, 0] if logits.shape[1] == 1 else probabilities(logits).amax(1), logits)


class BagHead(nn.Module):
    """Features `[K, d]` of one bag -> its probability `[1 or C]`, attention `[K]`, its instances' `[K, 1 or C]`.

    Training pools many bags at once with `pool`, which gives logits. With `max` all attention is with the instance of
    the highest score, in equal shares where several have it. Raises TrainingError for a pooling or number of classes
    that does not exist.
    """

    def __init__(self, features: int, classes: int, pooling: Pooling = "attention", width: int = 128) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise TrainingError(f"pooling {pooling!r} is not known; choose one of {', '.join(POOLINGS)}")
        if classes < 2:
            raise TrainingError(f"{classes} classes: a bag is of one of two classes at least")
        self.pooling: Pooling = pooling
        self.scorer = InstanceScorer(features, classes, pooling, width)

    def pool(self, scored: Scored, index: Tensor, count: int) -> Pooled:
        """The bags of a batch; `index` `[N]` is the bag of each instance, in any order, none of `count` being empty."""
        if self.pooling == "max":
            highest = (scored.scores == segment_max(scored.scores, index, count)[index]).to(scored.logits.dtype)
            attention = highest / segment_sum(highest, index, count)[index]
        else:
            attention = segment_softmax(scored.scores, index, count)
        return Pooled(segment_sum(attention[:, None] * scored.logits, index, count), attention)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scored: Scored = self.scorer(features)
        if self.pooling == "max":
            highest = (scored.scores == scored.scores.amax(0)).to(scored.logits.dtype)
            attention = highest / highest.sum()
        else:
            attention = scored.scores.softmax(0)
        return probabilities(attention @ scored.logits), attention, probabilities(scored.logits)
