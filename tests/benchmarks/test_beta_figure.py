"""Figure 1 of the beta-KL paper, drawn from the loss."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from glassrt.benchmarks.beta_figure import BETAS, SHAPED, THETAS, divergence, draw_figure, model_losses


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    draw_figure(tmp_path / "figure.png")
    drawn = cv2.imread(str(tmp_path / "figure.png"))
    assert drawn is not None
    assert drawn.shape[1] > drawn.shape[0] > 400
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 100
    assert (drawn.reshape(-1, 3) == (0, 0, 255)).all(1).sum() > 100  # the red line


def test_the_optimum_is_where_the_paper_says() -> None:
    best = THETAS[model_losses().argmin(0)]
    for beta1, theta0 in ((0.0, 0.33 / 1.33), (0.6128, 0.05), (0.61, 0.05), (1.0, THETAS[0])):
        assert np.interp(beta1, BETAS, best) == pytest.approx(theta0, abs=2e-3)
    assert (np.diff(best) <= 0).all()


def test_the_divergence_is_its_equation_element_by_element() -> None:
    p1, q1 = np.array([[0.2, 0.7, 0.5], [0.0, 1.0, 0.3]]), np.array([[0.6, 0.1, 0.5], [0.4, 0.4, 0.9]])
    with np.errstate(divide="ignore", invalid="ignore"):
        benign = np.where(p1 < 1, (1 - p1) * np.log((1 - p1) / (1 - q1)), 0)
        malign = np.where(p1 > 0, p1 / SHAPED[1] * (1 - (q1 / p1) ** SHAPED[1]), 0)
    assert divergence(p1, q1, SHAPED) == pytest.approx(benign + malign, abs=1e-12)


def test_a_missed_tumour_costs_less_than_a_made_up_one() -> None:
    missed, made_up = divergence(np.array([0.95, 0.05]), np.array([0.05, 0.95]), SHAPED)
    assert 0 < missed < made_up
