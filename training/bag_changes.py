"""What virtual adversarial training changes about bags, drawn at random.

Source: "Distill-to-Label", section 3.2. The paper gives no sizes: a bag gains up to half as many noise instances as it
holds; perturbations have the root mean square of `rms` in units of the normalised input; sub-bags keep a few percent,
since larger ones barely differ from the bag.
"""

from typing import Annotated, NamedTuple

import msgspec
import torch
from msgspec import UNSET, UnsetType
from torch import Tensor

from glassrt.training.batches import Bags
from glassrt.training.config import Count, Rate, Share, Strict, Weight
from glassrt.training.segments import number_bags


class Regularisation(Strict, frozen=True, kw_only=True):
    """Weights of the terms of Eq. 3, and how bags are changed; the weights are the paper's for colon.

    A term of weight 0 is neither drawn nor computed, so that `bag` alone is plain multiple instance learning. The
    entropy's may rise from 0 over so many steps: from the first one on, it sharpens what a young network gets wrong.
    """

    bag: Weight = 1.0
    noise: Weight = 0.5
    ball: Weight = 0.3
    entropy: Weight = 0.3
    most_noise: Annotated[float, msgspec.Meta(gt=0)] = 0.5  # noise instances, as a share of those that a bag holds
    rms: Rate = 0.1
    adversarial: bool = False
    kept: tuple[Share, Share] = (0.01, 0.15)  # the share of a bag in a sub-bag, between these
    realisations: Count = 5
    entropy_rise_steps: Count | UnsetType = UNSET

    def __post_init__(self) -> None:
        if not 0 <= self.kept[0] <= self.kept[1] < 1:
            raise ValueError(f"kept = {list(self.kept)}: two shares of a bag, the lower first, both below 1")

    def at(self, step: int) -> "Regularisation":
        """The weights of a step, counted from 0."""
        if self.entropy_rise_steps is UNSET:
            return self
        return msgspec.structs.replace(self, entropy=self.entropy * min(1.0, step / self.entropy_rise_steps))


class Noise(NamedTuple):
    """Instances `[M, ...]` that are like no others, and the bag that each is added to, `[M]`."""

    instances: Tensor
    bags: Tensor


class NoiseRange(NamedTuple):
    """The lowest and highest value of each channel in the training data, `[3]` of 0..255 or `[D]` of features."""

    lowest: Tensor
    highest: Tensor


class Changes(NamedTuple):
    """How a batch of N instances is changed; None where a term is left out.

    `ball` is what is added to the normalised instances, of their shape; `adversarial` turns it uphill first. `kept`
    `[realisations, N]` says which instances are in each of the sub-bags.
    """

    noise: Noise | None = None
    ball: Tensor | None = None
    adversarial: bool = False
    kept: Tensor | None = None


def draw_changes(bags: Bags, settings: Regularisation, noise_range: NoiseRange, generator: torch.Generator) -> Changes:
    """Draw all that the settings give weight to. The generator's state alone decides, wherever the bags are."""
    return Changes(
        draw_noise(bags, noise_range, settings.most_noise, generator) if settings.noise else None,
        draw_ball(bags.instances, settings.rms, generator) if settings.ball else None,
        settings.adversarial,
        draw_kept(bags, settings.kept, settings.realisations, generator) if settings.entropy else None,
    )


def draw_noise(bags: Bags, noise_range: NoiseRange, most: float, generator: torch.Generator) -> Noise:
    """Noise instances for each bag of K: as many as U{1, ..., most x K}, at least 1; values uniform in their range.

    Normalisation is linear, so that this is the uniform distribution over the range of normalised data, too.
    """
    instances = bags.instances
    highest = (most * torch.tensor(bags.sizes)).floor().clamp(min=1)
    counts = 1 + (uniform((len(bags.sizes),), generator) * highest).floor().clamp(max=highest - 1).long()
    values = uniform((int(counts.sum()), *instances.shape[1:]), generator).to(instances)
    low, high = (each.to(instances).reshape(1, -1, *(1 for _ in instances.shape[2:])) for each in noise_range)
    return Noise(low + (high - low) * values, number_bags(counts.tolist(), instances.device))


def draw_ball(instances: Tensor, rms: float, generator: torch.Generator) -> Tensor:
    """A random direction for each instance, as long as `rms` in every value would be."""
    ball = torch.randn(instances.shape, generator=generator, device=generator.device).to(instances)
    return scaled(ball, rms)


def instance_rms(ball: Tensor) -> Tensor:
    """The root mean square of each instance's values, `[N, 1, ...]`."""
    return ball.flatten(1).square().mean(1).sqrt().reshape(-1, *(1 for _ in ball.shape[1:]))


def scaled(ball: Tensor, rms: float | Tensor) -> Tensor:
    """Each instance's perturbation at the root mean square `rms`; one of zeros stays so."""
    return ball / instance_rms(ball).clamp(min=torch.finfo(ball.dtype).tiny) * rms


def draw_kept(bags: Bags, shares: tuple[float, float], realisations: int, generator: torch.Generator) -> Tensor:
    """`[realisations, N]` bool: a share of each bag's instances, drawn between `shares`; not all, but at least one."""
    sizes = torch.tensor(bags.sizes)
    low, high = shares
    share = low + (high - low) * uniform((realisations, len(sizes)), generator)
    wanted = (share * sizes).round().minimum(sizes - 1).clamp(min=1)
    index, starts = number_bags(bags.sizes, sizes.device), sizes.cumsum(0) - sizes
    mixed = uniform((realisations, len(index)), generator).argsort(1)
    # Instances in random order, then by bag without undoing it: their places in a bag are a random ranking.
    order = mixed.gather(1, index[mixed].argsort(dim=1, stable=True))
    places = (torch.arange(len(index)) - starts[index]).expand(realisations, -1)
    ranks = torch.empty_like(order).scatter(1, order, places)
    return (ranks < wanted[:, index]).to(bags.instances.device)


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Numbers in [0, 1), float64 so that their order has no ties, on the CPU wherever they were drawn."""
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device).cpu()
