"""How beta bears noise: the trivial model of the paper's section 3.1.1, and the rules that choose beta by it."""

import math

import pytest
import torch
from torch import Tensor

from glassrt.training import losses

BENIGN, MALIGN = (1.0, 0.0), (0.0, 1.0)


def one_pixel_patches(noise: float, ratio: float, patches: int = 200) -> tuple[Tensor, Tensor]:
    """What each patch shows (0 or 1), and the class of the slide it is from."""
    benign = round(ratio * patches)
    malign = patches - benign
    silent = round(noise * malign)
    shown = torch.tensor([0] * (benign + silent) + [1] * (malign - silent))
    return shown, torch.tensor([BENIGN] * benign + [MALIGN] * malign, dtype=torch.float64)


def descend(beta: tuple[float, float], noise: float, ratio: float, steps: int = 1500) -> tuple[float, float]:
    """Probabilities of malign that gradient descent ends at, of pixels that show nothing and of those that do."""
    shown, truth = one_pixel_patches(noise, ratio)
    log_odds = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    for _ in range(steps):
        pixels = torch.stack([torch.zeros_like(log_odds), log_odds], 1)[shown]
        (gradient,) = torch.autograd.grad(losses.beta_kl(pixels[:, :, None, None], truth, beta, eta=100), log_odds)
        with torch.no_grad():
            log_odds -= 12 * gradient  # Kullback-Leibler, the steepest, swings from 16 on
    theta0, theta1 = log_odds.sigmoid().tolist()
    return theta0, theta1


@pytest.mark.parametrize(
    ("beta", "theta0"), [((0.0, 0.0), 0.33 / 1.33), ((0.0, 0.6128), 0.0500), ((0.0, 1.0), 0.0), ((1.0, 1.0), 0.0)]
)
def test_gradient_descent_ends_where_the_paper_says(beta: tuple[float, float], theta0: float) -> None:
    ends = descend(beta, noise=0.33, ratio=0.5)
    assert ends[0] == pytest.approx(theta0, abs=2e-4)
    assert ends[1] > 0.999


@pytest.mark.parametrize(
    ("noise", "ratio", "theta0", "beta0"), [(0.6, 0.5, 0.1, 0.0), (0.5, 0.3, 0.2, 0.0), (0.4, 0.6, 0.02, 0.5)]
)
def test_the_chosen_beta_leads_to_its_theta(noise: float, ratio: float, theta0: float, beta0: float) -> None:
    beta = beta0, losses.beta_for(noise, ratio, theta0, beta0)
    assert descend(beta, noise, ratio)[0] == pytest.approx(theta0, abs=2e-4)


def test_the_papers_example() -> None:
    assert losses.beta_for(0.33, 0.5, 0.05) == pytest.approx(0.6128, abs=1e-3)
    assert losses.beta_for(0.33, 0.5, 0.33 / 1.33) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ((0.0, 0.5, 0.05), "noise 0.0 does not lie between"),
        ((1.0, 0.5, 0.05), "noise 1.0"),
        ((0.33, 0.0, 0.05), "ratio 0.0"),
        ((0.33, 1.0, 0.05), "ratio 1.0"),
        ((0.33, 0.5, 0.0), "theta0 0.0"),
        ((0.33, 0.5, 1.0), "theta0 1.0"),
        ((math.nan, 0.5, 0.05), "noise nan"),
        ((0.33, 0.5, 0.05, -0.1), "beta0 -0.1"),
        ((0.33, 0.5, 0.05, 1.1), "beta0 1.1"),
        ((0.33, 0.5, 0.3), "Kullback-Leibler ends lower"),
        ((0.9, 0.3, 0.05), "a higher ratio of benign slides"),
    ],
)
def test_what_no_beta_does_is_refused(settings: tuple[float, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says) as refusal:
        losses.beta_for(*settings)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("step", "rise_steps", "beta1"),
    [(0, 10, 0.0), (1, 10, 0.08), (5, 10, 0.4), (10, 10, 0.8), (11, 10, 0.8), (0, 0, 0.8)],
)
def test_beta_rises_in_a_line_and_that_of_benign_stays(step: int, rise_steps: int, beta1: float) -> None:
    assert losses.beta_at(step, (0.3, 0.8), rise_steps) == pytest.approx((0.3, beta1))


@pytest.mark.parametrize(("step", "rise_steps"), [(-1, 10), (3, -1)])
def test_negative_steps_are_refused(step: int, rise_steps: int) -> None:
    with pytest.raises(ValueError, match="negative"):
        losses.beta_at(step, (0.0, 1.0), rise_steps)


def test_rising_leads_out_of_all_benign() -> None:
    """Where a malign patch is all but surely benign, beta 1 has no gradient to speak of, Kullback-Leibler all of it."""
    truth = torch.tensor([MALIGN], dtype=torch.float64)
    pull = []
    for step in (0, 100):
        logits = torch.tensor([0.0, -12.0], dtype=torch.float64).reshape(1, 2, 1, 1).requires_grad_()
        losses.beta_kl(logits, truth, losses.beta_at(step, (0.0, 1.0), 100), eta=100).backward()
        assert logits.grad is not None
        pull.append(-logits.grad[0, 1].item())
    assert pull == pytest.approx([1.0, math.exp(-12)], rel=1e-4)


def test_at_beta_1_a_class_that_is_not_there_costs_nothing() -> None:
    logits = torch.tensor([[0.3, 1.2]], dtype=torch.float64)
    q = logits.softmax(1)[0]
    for truth, loss in ((BENIGN, 1 - q[0]), (MALIGN, 1 - q[1])):
        found = losses.beta_kl(logits[:, :, None, None], torch.tensor([truth], dtype=torch.float64), (1.0, 1.0))
        assert found.item() == pytest.approx(loss.item())
