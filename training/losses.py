"""Losses on logits `[N, C, H, W]` (any float dtype) and labels `[N, H, W]` (int64, `IGNORE` where unknown).

Sources: OEEM (Li et al., MICCAI 2022), equations 3 to 8; OHEM as Shrivastava et al. (CVPR 2016), the baseline that
OEEM is held against; the tempered weight joins OEEM with the generalised cross-entropy of Zhang and Sabuncu
(NeurIPS 2018); beta-KL from "Weakly Supervised Training of Pixel Resolution Segmentation Models on Whole Slide
Images", section 3. All arithmetic is float32 or better. On CUDA, OEEM and beta-KL are kernels (`fused.py`), held
against the plain statements here.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from glassrt.cuda_kernels.beta_kl import count_largest
from glassrt.training import fused
from glassrt.training.metrics import IGNORE

Weight = Literal["c_max", "c_diff", "l_norm", "lc_mix"]
WEIGHTS: tuple[Weight, ...] = get_args(Weight)


def full_precision(logits: Tensor) -> Tensor:
    """Half-precision logits as float32; others as they are."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled pixels; 0 where there are none."""
    losses = F.cross_entropy(full_precision(logits), labels, ignore_index=IGNORE, reduction="none")
    return losses.sum() / (labels != IGNORE).sum().clamp(min=1)


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - soft Dice, averaged over the foreground classes of the batch."""
    known = (labels != IGNORE).unsqueeze(1)
    truth = F.one_hot(labels.where(labels != IGNORE, 0), logits.shape[1]).movedim(3, 1) * known
    probability = full_precision(logits).softmax(1) * known
    overlap, total = (probability * truth).sum((0, 2, 3)), (probability + truth).sum((0, 2, 3))
    return (1 - (2 * overlap + 1) / (total + 1))[1:].mean()


def distillation(logits: Tensor, soft: Tensor, weights: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of the predictions from soft labels, at a temperature, times its square.

    Mean over the pixels, each counted as its weight `[N, H, W]`; 0 where all are 0. `soft` `[N, C, H, W]` are
    probabilities. Source: Hinton et al., "Distilling the Knowledge in a Neural Network" (2015).
    """
    logs = (full_precision(logits) / temperature).log_softmax(1)
    target = soft.pow(1 / temperature)
    target = target / target.sum(1, keepdim=True)
    apart = (torch.xlogy(target, target) - target * logs).sum(1)
    return temperature**2 * (apart * weights).sum() / weights.sum().clamp(min=1)


def ohem(logits: Tensor, labels: Tensor, threshold: float = 0.7, kept: float = 0.25) -> Tensor:
    """Mean cross-entropy over the hard pixels: label's probability below `threshold`, at least the share `kept`."""
    losses = F.cross_entropy(full_precision(logits), labels, ignore_index=IGNORE, reduction="none")
    known = losses[labels != IGNORE]
    if not known.numel():
        return losses.sum()
    hardest = known.detach().topk(max(1, round(kept * known.numel()))).values
    limit = hardest[-1].clamp(max=-torch.log(torch.tensor(threshold)).item())
    return known[known.detach() >= limit].mean()


def oeem(
    logits: Tensor, labels: Tensor, weight: Weight = "l_norm", beta: float = 1.0, ignored_as_easy: bool = False
) -> Tensor:
    """Cross-entropy that trusts easy pixels, Eqs. 3 to 8 of OEEM: mean over labelled pixels of weight x loss.

    The weight is a constant to the gradient. Images whose labelled pixels are all of one class have plain
    cross-entropy (Eq. 8). `beta` tempers the loss-based weights, see `easy_weights`. With `ignored_as_easy`, unlabelled
    pixels take part in weight and mean with a loss of 0, as in the authors' code. Raises ValueError.
    """
    if labels.device != logits.device:
        raise ValueError(f"labels lie on {labels.device}, logits on {logits.device}")
    statement = fused.Oeem.apply if takes_kernels(logits) else plain_oeem
    loss: Tensor = statement(logits, labels, weight, beta, ignored_as_easy)
    return loss


def takes_kernels(logits: Tensor) -> bool:
    """Whether a loss is a kernel there: on CUDA, up to float32."""
    return logits.is_cuda and logits.dtype != torch.float64


def plain_oeem(logits: Tensor, labels: Tensor, weight: Weight, beta: float, ignored_as_easy: bool) -> Tensor:
    """`oeem` in torch, on any device."""
    logits = full_precision(logits)
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    counted = torch.ones_like(labels, dtype=torch.bool) if ignored_as_easy else labels != IGNORE
    weights = easy_weights(logits.detach(), losses.detach(), counted, weight, beta)
    weights = torch.where(single_class(labels)[:, None, None], 1.0, weights)
    return (weights * losses).sum() / counted.sum().clamp(min=1)


def easy_weights(logits: Tensor, losses: Tensor, counted: Tensor, weight: Weight, beta: float = 1.0) -> Tensor:
    """The weight map `[N, H, W]` of OEEM; `losses` is the cross-entropy of each pixel, `counted` those that take part.

    `c_max` (Eq. 4): the largest class probability. `c_diff` (Eq. 5): the largest minus the smallest. `l_norm`
    (Eq. 6): softmax of -loss over the image's counted pixels over its mean, which is p / mean(p) with p the label's
    probability; `beta` makes it p^beta / mean(p^beta), from plain cross-entropy (0) to the paper's (1). `lc_mix`
    (Eq. 7): `l_norm` times `c_max`. The first two lie in 0..1, the last two average about 1 and take `beta`.
    """
    if weight not in WEIGHTS:
        raise ValueError(f"weight {weight!r} is not known; choose one of {', '.join(WEIGHTS)}")
    if not 0 <= beta <= 1:
        raise ValueError(f"beta {beta} lies outside 0..1")
    probability = logits.softmax(1)
    if weight == "c_max":
        return probability.amax(1)
    if weight == "c_diff":
        return probability.amax(1) - probability.amin(1)
    exponents = (-beta * losses).masked_fill(~counted, -torch.inf).flatten(1)
    share = exponents.softmax(1).nan_to_num(0)  # an image without counted pixels has no softmax
    normed = (share * counted.flatten(1).sum(1, keepdim=True)).view_as(losses)
    return normed * probability.amax(1) if weight == "lc_mix" else normed


def single_class(labels: Tensor) -> Tensor:
    """`[N]`: whether the labelled pixels of an image are all of one class, or none at all."""
    known = labels != IGNORE
    lowest = labels.where(known, IGNORE).amin((1, 2))
    highest = labels.where(known, -1).amax((1, 2))
    return highest <= lowest


def beta_kl(logits: Tensor, truth: Tensor, beta: tuple[float, float] = (0.0, 1.0), eta: float = 50.0) -> Tensor:
    """Divergence of slides' predicted classes from `truth` `[N, 2]` (benign, malign; float32), averaged over slides.

    Logits `[N, 2, H, W]` are pooled by `pool_slides`; q is their softmax. A slide's loss is the sum over classes of
    p / beta (1 - (q / p)^beta), which is p log(p / q) for beta = 0 and 0 for p = 0. At beta = 1 that term taken
    literally is -q; it is the limit of p to 0, as for every other beta. A malign slide's loss is then 1 - q, whose
    gradient vanishes with q: training may be trapped where all is benign, unless beta rises as in `beta_at`. Raises
    ValueError.
    """
    if truth.device != logits.device:
        raise ValueError(f"truth lies on {truth.device}, logits on {logits.device}")
    if not all(0 <= each <= 1 for each in beta):
        raise ValueError(f"beta {beta} lies outside 0..1")
    statement = fused.BetaKL.apply if takes_kernels(logits) else plain_beta_kl
    loss: Tensor = statement(logits, truth, beta, eta)
    return loss


def beta_for(noise: float, ratio: float, theta0: float, beta0: float = 0.0) -> float:
    """The beta of the malign term for which a benign pixel ends at the probability `theta0` of being malign.

    `noise` is the share of patches from malign slides that show no tumour, `ratio` the share of patches that are from
    benign slides; these and `theta0` lie between 0 and 1, `beta0` may be either end. Section 3.1.1 of the paper, whose
    derivative is printed with the wrong sign and has the same root. Raises ValueError, also where no beta in 0..1 does
    it.
    """
    for name, value in (("noise", noise), ("ratio", ratio), ("theta0", theta0)):
        if not 0 < value < 1:
            raise ValueError(f"{name} {value} does not lie between 0 and 1: choose a share above 0 and below 1")
    if not 0 <= beta0 <= 1:
        raise ValueError(f"beta0 {beta0} lies outside 0..1")
    mislabelled = (1 - ratio) * noise / ratio  # for each patch of a benign slide
    beta1 = 1 + ((beta0 - 1) * math.log1p(-theta0) - math.log(mislabelled)) / math.log(theta0)
    if beta1 < 0:
        raise ValueError(f"theta0 {theta0} would need beta1 {beta1:.3f}: Kullback-Leibler ends lower already")
    if beta1 > 1:
        raise ValueError(f"theta0 {theta0} would need beta1 {beta1:.3f}: choose a higher ratio of benign slides")
    return beta1


def beta_at(step: int, beta: tuple[float, float], rise_steps: int) -> tuple[float, float]:
    """The beta of a step, counted from 0: that of the malign term rises in a line from 0 over the first `rise_steps`.

    Training starts with Kullback-Leibler's gradient, which leads out of "all benign", and ends with what bears noise.
    No part of the paper. Raises ValueError for negative steps.
    """
    if step < 0 or rise_steps < 0:
        raise ValueError(f"step {step} of {rise_steps} rising ones: neither may be negative")
    return beta if step >= rise_steps else (beta[0], beta[1] * step / rise_steps)


def plain_beta_kl(logits: Tensor, truth: Tensor, beta: tuple[float, float], eta: float) -> Tensor:
    """`beta_kl` in torch, on any device."""
    log_q = pool_slides(full_precision(logits), eta).log_softmax(1)
    total = torch.zeros_like(log_q[:, 0])
    for log_qi, p, power in zip(log_q.T, truth.T, beta, strict=True):
        distance = torch.where(p > 0, log_qi - p.clamp(min=torch.finfo(p.dtype).tiny).log(), 0.0)
        total = total - p * (torch.expm1(power * distance) / power if power else distance)
    return total.mean()


def pool_slides(logits: Tensor, eta: float) -> Tensor:
    """Slide logits `[N, 2]` of pixel logits `[N, 2, H, W]`: the mean, and the mean of the malign top `eta` percent.

    These are the k = max(1, round(eta / 100 x pixels)) largest, halves up. Where several tie for the last of the k
    places, each has an equal share in them, in the gradient too. Raises ValueError.
    """
    benign, malign = logits.flatten(2).unbind(1)
    largest = count_largest(malign.shape[1], eta)
    limit = malign.detach().topk(largest).values[:, -1:]
    above, tied = malign > limit, malign == limit
    share = (largest - above.sum(1, keepdim=True)) / tied.sum(1, keepdim=True)
    chosen = torch.where(above | tied, malign, 0)  # -inf times nothing would not be nothing
    return torch.stack([benign.mean(1), ((above + tied * share) * chosen).sum(1) / largest], 1)
