"""Multiple instance learning: bags of instances to a logit for each bag, attention and logits for its instances.

Source: "Distill-to-Label: Weakly Supervised Instance Labeling Using Knowledge Distillation", section 3. Teacher and
student are both this network. A single instance is a bag of size 1, whose attention is 1: its logits are what the
classifier makes of its own features.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from glassrt.engine.errors import TrainingError
from glassrt.training.bag_changes import Changes, instance_rms, scaled
from glassrt.training.batches import Bags
from glassrt.training.networks.bag_head import BagHead, Pooling, Scored
from glassrt.training.networks.extractors import ConvExtractor, Extractor, build_extractor
from glassrt.training.segments import number_bags
from glassrt.training.soft_targets import cross_entropy, log_probabilities


class Design(NamedTuple):
    """What a network is made of.

    `encoder` is a layout of `extractors` or an encoder by name; None takes vectors of `features` numbers that were
    stored before. `attention` is the width of gated attention (L of Eq. 2). `frozen` encoders by name keep their batch
    norm's statistics; one that does not learn keeps all that it starts with.
    """

    encoder: str | None = "conv2"
    features: int | None = None
    pooling: Pooling = "attention"
    attention: int = 128
    frozen: bool = False
    encoder_learns: bool = True


class Predicted(NamedTuple):
    """Of B bags with N instances: bag logits `[B, 1 or C]`, attention `[N]`, instance logits `[N, 1 or C]`.

    Where changes were asked for: logits `[B, 1 or C]` of the bags with noise instances and of those perturbed, and
    those of sub-bags, `[realisations x B, 1 or C]`.
    """

    bags: Tensor
    attention: Tensor
    instances: Tensor
    noisy: Tensor | None = None
    perturbed: Tensor | None = None
    reduced: Tensor | None = None


class MilNetwork(nn.Module):
    """`Bags` of RGB instances in 0..255, or of features -> `Predicted`, on request of changed bags, too.

    `encoder` (instances -> features `[N, d]`; nothing for stored features) and `head` (features of one bag -> its
    probabilities) are graphs of their own when served. Raises TrainingError for a design that does not exist.
    """

    def __init__(self, classes: int, design: Design) -> None:
        super().__init__()
        if (design.encoder is None) != (design.features is not None):
            raise TrainingError("set either `encoder`, or `features` to the length of the vectors that were stored")
        self.design = design
        self.encoder: Extractor | nn.Identity
        if design.encoder is None:
            assert design.features is not None
            self.encoder, features = nn.Identity(), design.features
        else:
            self.encoder = build_extractor(design.encoder, design.frozen, design.encoder_learns)
            features = self.encoder.channels
        self.head = BagHead(features, classes, design.pooling, design.attention)

    @property
    def input_std(self) -> Tensor:
        """What inputs are divided by, `[1, 3, 1, 1]` or `[1, D]`: one unit of what the network sees."""
        return self.head.scorer.feature_std if isinstance(self.encoder, nn.Identity) else self.encoder.pixel_std

    def normalise_by(self, mean: Tensor, std: Tensor) -> None:
        """Normalise by the training data's statistics, `[3]` of pixels in 0..255 or `[D]` of stored features.

        Raises TrainingError for encoders by name, which keep those of their public weights.
        """
        if isinstance(self.encoder, nn.Identity):
            buffers = self.head.scorer.feature_mean, self.head.scorer.feature_std
        elif isinstance(self.encoder, ConvExtractor):
            buffers = self.encoder.pixel_mean, self.encoder.pixel_std
        else:
            raise TrainingError(f"{self.design.encoder} keeps the statistics its public weights were made with")
        with torch.no_grad():
            for buffer, values in zip(buffers, (mean, std), strict=True):
                buffer.copy_(values.reshape(buffer.shape))

    def forward(self, bags: Bags, changes: Changes | None = None) -> Predicted:
        """Bags with more noise instances and sub-bags reuse the bags' features: only what is new is encoded.

        All is one call, in which processes that train together count on every gradient.
        """
        changes = changes or Changes()
        index, count = number_bags(bags.sizes, bags.instances.device), len(bags.sizes)
        scored = self._score(bags.instances)
        pooled = self.head.pool(scored, index, count)
        noisy = perturbed = reduced = None
        if changes.noise is not None:
            joined = Scored(*map(torch.cat, zip(scored, self._score(changes.noise.instances), strict=True)))
            noisy = self.head.pool(joined, torch.cat([index, changes.noise.bags]), count).logits
        if changes.ball is not None:
            ball = self._climb(bags, index, pooled.logits, changes.ball) if changes.adversarial else changes.ball
            perturbed = self._perturb(bags, index, ball)
        if changes.kept is not None:
            realisation, instance = changes.kept.nonzero(as_tuple=True)
            part = Scored(scored.scores[instance], scored.logits[instance])
            reduced = self.head.pool(part, realisation * count + index[instance], len(changes.kept) * count).logits
        return Predicted(pooled.logits, pooled.attention, scored.logits, noisy, perturbed, reduced)

    def _score(self, instances: Tensor) -> Scored:
        scored: Scored = self.head.scorer(self.encoder(instances))
        return scored

    def _perturb(self, bags: Bags, index: Tensor, ball: Tensor) -> Tensor:
        """Logits of the bags when `ball` is added to their normalised instances."""
        scored = self._score(bags.instances + ball * self.input_std)
        return self.head.pool(scored, index, len(bags.sizes)).logits

    def _climb(self, bags: Bags, index: Tensor, logits: Tensor, ball: Tensor) -> Tensor:
        """A perturbation as long as `ball`, along the slope there of what bags differ by from their own predictions.

        The slope is taken where the random perturbation leads to, since the bag itself is a minimum. Instances without
        a slope keep theirs.
        """
        target = log_probabilities(logits).exp().detach()
        with torch.enable_grad():
            ball = ball.detach().requires_grad_()
            change = cross_entropy(target, self._perturb(bags, index, ball)).sum()
            (slope,) = torch.autograd.grad(change, ball)
        steepest = slope.abs().flatten(1).amax(1).reshape(-1, *(1 for _ in slope.shape[1:]))
        flat = steepest == 0
        uphill = slope / steepest.where(~flat, 1)  # squares of what attention hardly sees would be 0
        return torch.where(flat, ball.detach(), scaled(uphill, instance_rms(ball.detach())))
