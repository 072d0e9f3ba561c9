"""Figure 1 of "Weakly Supervised Training of Pixel Resolution Segmentation Models on Whole Slide Images", anew.

It is drawn from the loss that trains, not from a second formula; `python -m glassrt.benchmarks.beta_figure PNG` draws
it again. A tumour that is missed costs less than one that is made up, as it must where labels of malign patches are the
noisy ones; the paper's text has it the other way round.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from glassrt.engine.files import replace_file
from glassrt.training.losses import plain_beta_kl

Values = NDArray[np.float64]
SHAPED = 0.0, 0.61  # the beta of the left part
NOISE, RATIO = 0.33, 0.5  # of the right part
BETAS, THETAS = np.linspace(0, 1, 101), np.linspace(0.001, 0.5, 500)


def divergence(p1: Values, q1: Values, beta: tuple[float, float]) -> Values:
    """Beta-KL of Bernoulli(`q1`) from Bernoulli(`p1`), element by element: `losses.plain_beta_kl` of one pixel each."""
    logits, truth = (torch.from_numpy(np.stack([1 - each, each], -1).reshape(-1, 2)) for each in (q1, p1))

    def one(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return plain_beta_kl(logits[None, :, None, None], truth[None], beta, eta=100.0)

    found: Values = torch.vmap(one)(logits.log(), truth).numpy().reshape(p1.shape)
    return found


def model_loss(theta0: Values, beta1: float) -> Values:
    """Mean loss of the trivial model of section 3.1.1 where it knows tumour for sure, for its error `theta0`.

    Of the patches that show nothing, `RATIO` are from benign slides, `(1 - RATIO) * NOISE` from malign ones.
    """
    benign, malign = (divergence(np.full_like(theta0, p1), theta0, (0.0, beta1)) for p1 in (0.0, 1.0))
    return RATIO * benign + (1 - RATIO) * NOISE * malign


def model_losses() -> Values:
    """`model_loss` `[len(THETAS), len(BETAS)]`."""
    return np.stack([model_loss(THETAS, beta1) for beta1 in BETAS.tolist()], 1)


def draw_figure(path: Path) -> None:
    """The divergence of two Bernoulli distributions, and the trivial model's loss with its optimum, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    shares = np.linspace(0.005, 0.995, 100)
    p1, q1 = np.meshgrid(shares, shares)
    draw_levels(left, shares, shares, divergence(p1, q1, SHAPED))
    left.plot((0, 1), (0, 1), color="white", linewidth=1, linestyle="dashed")
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="p1, true", ylabel="q1, predicted", title=f"beta-KL, beta = {SHAPED}")
    losses = model_losses()
    draw_levels(right, BETAS, THETAS, losses)
    right.plot(BETAS, THETAS[losses.argmin(0)], color="red", label="best theta0")
    right.set(xlabel="beta1", ylabel="theta0", title=f"loss of the trivial model, noise {NOISE}, beta0 = 0")
    right.legend()
    with replace_file(path) as beside:
        figure.savefig(beside, format="png")


def draw_levels(axes: Any, x: Values, y: Values, values: Values) -> None:
    """Filled contours, whose levels lie closer where values are small."""
    values = values.clip(min=0)  # where rounding leaves -1e-17
    low, high = values.min(), np.quantile(values, 0.995)
    levels = low + (high - low) * np.linspace(0, 1, 25) ** 2
    filled = axes.contourf(x, y, values, levels, extend="max")
    axes.contour(x, y, values, levels, colors="black", linewidths=0.3)
    axes.figure.colorbar(filled, ax=axes, format="%.2f")


if __name__ == "__main__":
    draw_figure(Path(sys.argv[1]))
