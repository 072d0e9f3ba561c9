"""The losses against plain float64 statements of their equations."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from glassrt.training import losses
from glassrt.training.losses import Weight
from glassrt.training.metrics import IGNORE


def example(seed: int, images: int = 3, classes: int = 3, side: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels with a few ignored pixels."""
    random = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(images, classes, side, side + 2, generator=random)
    labels = torch.randint(classes, (images, side, side + 2), generator=random)
    labels[torch.rand(labels.shape, generator=random) < 0.1] = IGNORE
    return logits, labels


def softmax(values: NDArray[np.float64], axis: int | None = None) -> NDArray[np.float64]:
    powers = np.exp(values)
    return np.asarray(powers / powers.sum(axis=axis, keepdims=axis is not None))


def stated_loss(logits: torch.Tensor, labels: torch.Tensor, weight: Weight) -> float:
    """Eqs. 3 to 8 image by image and word by word, in float64; ignored pixels are not there at all."""
    total, pixels = 0.0, 0
    for image, truth in zip(logits.double().numpy(), labels.numpy(), strict=True):
        known = truth != IGNORE
        confidence, classes = softmax(image, axis=0)[:, known], truth[known]
        loss = -np.log(confidence[classes, np.arange(classes.size)])
        normalised = softmax(-loss) / softmax(-loss).mean()
        weights = {
            "c_max": confidence.max(0),
            "c_diff": confidence.max(0) - confidence.min(0),
            "l_norm": normalised,
            "lc_mix": normalised * confidence.max(0),
        }[weight]
        total += float((loss if np.unique(classes).size == 1 else weights * loss).sum())
        pixels += classes.size
    return total / pixels


@pytest.mark.parametrize("weight", losses.WEIGHTS)
@pytest.mark.parametrize("seed", range(3))
def test_oeem_is_its_equations(weight: Weight, seed: int) -> None:
    logits, labels = example(seed)
    assert losses.oeem(logits, labels, weight).item() == pytest.approx(stated_loss(logits, labels, weight), rel=1e-5)


@pytest.mark.parametrize("weight", losses.WEIGHTS)
def test_images_of_one_class_have_plain_cross_entropy(weight: Weight) -> None:
    """In a batch of mixed images only the one of a single class goes without weights."""
    logits, labels = example(5)
    labels[1] = torch.where(labels[1] == IGNORE, IGNORE, 2)
    assert losses.oeem(logits, labels, weight).item() == pytest.approx(stated_loss(logits, labels, weight), rel=1e-5)
    alone = losses.oeem(logits[1:2], labels[1:2], weight)
    assert alone.item() == pytest.approx(losses.cross_entropy(logits[1:2], labels[1:2]).item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_normalised_weight_is_a_softmax_of_minus_the_loss(dtype: torch.dtype) -> None:
    logits, labels = example(1, images=2, classes=2, side=40)
    logits = logits.to(dtype)
    pixel_losses = F.cross_entropy(losses.full_precision(logits), labels, ignore_index=IGNORE, reduction="none")
    found = losses.easy_weights(losses.full_precision(logits), pixel_losses, labels != IGNORE, "l_norm")
    for image in range(2):
        known = (labels[image] != IGNORE).numpy()
        exact = F.cross_entropy(
            logits[image : image + 1].double(), labels[image : image + 1].clamp(max=1), reduction="none"
        )
        expected = softmax(-exact[0].numpy()[known])
        assert np.abs(found[image].numpy()[known] - expected / expected.mean()).max() < 1e-5
        assert not found[image].numpy()[~known].any()


def stated_weights(logits: torch.Tensor, labels: torch.Tensor, weight: Weight) -> torch.Tensor:
    """The weight map of `stated_loss`, 0 where ignored."""
    confidence = logits.double().softmax(1)
    known = labels != IGNORE
    probability = confidence.gather(1, labels.where(known, 0)[:, None])[:, 0] * known
    mean = probability.sum((1, 2), keepdim=True) / known.sum((1, 2), keepdim=True)
    largest = confidence.amax(1)
    return {
        "c_max": largest,
        "c_diff": largest - confidence.amin(1),
        "l_norm": probability / mean,
        "lc_mix": probability / mean * largest,
    }[weight]


@pytest.mark.parametrize("weight", losses.WEIGHTS)
def test_gradients_hold_the_weight_constant(weight: Weight, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the weights frozen, numeric and analytic gradients agree; unfrozen, the analytic one is the same."""
    logits, labels = example(2, side=3)
    logits = logits.double().requires_grad_()
    (found,) = torch.autograd.grad(losses.oeem(logits, labels, weight), logits)
    weights = stated_weights(logits.detach(), labels, weight)
    monkeypatch.setattr(losses, "easy_weights", lambda *_: weights)
    assert torch.autograd.gradcheck(lambda values: losses.oeem(values, labels, weight), (logits,))
    (frozen,) = torch.autograd.grad(losses.oeem(logits, labels, weight), logits)
    assert torch.allclose(found, frozen, atol=1e-12)


def test_beta_runs_from_cross_entropy_to_the_paper() -> None:
    logits, labels = example(3)
    assert losses.oeem(logits, labels, "l_norm", beta=0).item() == pytest.approx(
        losses.cross_entropy(logits, labels).item(), rel=1e-5
    )
    probability = logits.softmax(1).gather(1, labels.clamp(max=2)[:, None])[:, 0]
    pixel_losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    tempered = losses.easy_weights(logits, pixel_losses, labels != IGNORE, "l_norm", beta=0.4)
    for image in range(3):
        known = labels[image] != IGNORE
        expected = probability[image][known] ** 0.4
        assert torch.allclose(tempered[image][known], expected / expected.mean(), rtol=1e-4)


def test_ignored_pixels_count_only_on_request() -> None:
    """The authors' code gives ignored pixels a loss of 0, so the largest weight and a place in every mean."""
    logits, labels = example(4, images=1)
    known = labels != IGNORE
    pixel_losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none").double().numpy()
    weights = softmax(-pixel_losses) / softmax(-pixel_losses).mean()
    theirs = losses.oeem(logits, labels, "l_norm", ignored_as_easy=True).item()
    assert theirs == pytest.approx((weights * pixel_losses).mean(), rel=1e-5)
    changed = torch.where(known[:, None], logits, -logits)
    assert losses.oeem(changed, labels).item() == pytest.approx(losses.oeem(logits, labels).item(), rel=1e-6)


@pytest.mark.parametrize("weight", losses.WEIGHTS)
def test_hopeless_pixels_and_empty_images_stay_finite(weight: Weight) -> None:
    """Losses of thousands underflow every probability; an image without a labelled pixel has nothing to say."""
    logits, labels = example(6)
    logits = (logits * 1e4).requires_grad_()
    labels[2] = IGNORE
    loss = losses.oeem(logits, labels, weight)
    loss.backward()
    assert math.isfinite(loss.item())
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[2].any()


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.ohem, losses.oeem])
def test_a_batch_without_labels_costs_nothing(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    logits, labels = example(7)
    value = loss(logits.requires_grad_(), torch.full_like(labels, IGNORE))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize(("threshold", "kept"), [(0.7, 0.25), (0.1, 0.25), (0.999, 0.25), (0.0001, 0.5)])
def test_ohem_averages_the_hard_pixels(threshold: float, kept: float) -> None:
    logits, labels = example(8)
    pixel_losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")[labels != IGNORE].double()
    ordered = pixel_losses.sort(descending=True).values
    count = max(round(kept * len(ordered)), int((ordered >= -math.log(threshold)).sum()))
    assert losses.ohem(logits, labels, threshold, kept).item() == pytest.approx(ordered[:count].mean().item(), rel=1e-5)


def test_dice_falls_from_one_to_zero() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[:, 2:6] = 1
    labels[:, 0] = IGNORE
    right = 50 * (F.one_hot(labels.clamp(max=1), 2).movedim(3, 1).float() - 0.5)
    assert losses.dice(right, labels).item() < 1e-3
    assert losses.dice(-right, labels).item() > 0.95


@pytest.mark.parametrize(("weight", "beta", "says"), [("l_max", 1.0, "l_max"), ("l_norm", 1.5, "beta")])
def test_settings_that_do_not_exist_are_refused(weight: Weight, beta: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        losses.oeem(*example(9), weight, beta)
