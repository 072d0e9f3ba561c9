"""Features as they are: a linear classifier and nearest neighbours, against scikit-learn's rule and by hand."""

import numpy as np
import pytest

from glassrt.training.probe import classify_by_neighbours, classify_linearly


def test_the_linear_classifier_is_where_its_loss_is_least() -> None:
    """At the minimum of mean loss and penalty, the gradient by each weight vanishes."""
    random = np.random.default_rng(0)
    labels = np.arange(40) % 4
    known = (random.normal(0, 1, (40, 6)) + 2 * np.eye(4, 6)[labels]).astype(np.float32)
    logits = classify_linearly(known, labels, known, 4).astype(np.float64)
    given = (known - known.mean(0)) / known.std(0)
    solved = np.linalg.lstsq(np.column_stack([given, np.ones(40)]), logits, rcond=None)[0]
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gradient = given.T @ (share - np.eye(4)[labels]) / 40 + solved[:6] / 40
    assert np.abs(gradient).max() < 1e-4
    assert (logits.argmax(1) == labels).mean() > 0.7


def test_a_feature_that_never_changes_says_nothing() -> None:
    """Though float32 rounds the mean of many equal numbers to another one."""
    random = np.random.default_rng(1)
    labels = np.arange(36) % 2
    known = np.column_stack([labels + random.normal(0, 0.1, 36), np.full(36, 0.1)]).astype(np.float32)
    asked = known.copy()
    asked[:, 1] = 3.0
    assert np.array_equal(classify_linearly(known, labels, asked, 2), classify_linearly(known, labels, known, 2))
    assert (classify_linearly(known, labels, asked, 2).argmax(1) == labels).all()


def test_neighbours_vote_by_their_cosine() -> None:
    known = np.array([[1, 0], [0.9, 0.1], [0, 1], [0, 2], [0.1, 3], [0, 0]], np.float32)
    labels = np.array([0, 0, 1, 1, 1, 2])
    votes = classify_by_neighbours(known, labels, np.array([[5, 0], [0, 0.1], [1, 1]], np.float32), 3)
    assert votes.argmax(1).tolist() == [0, 1, 1]
    half = 2**-0.5
    near = [half, (0.9 + 0.1) * half / np.hypot(0.9, 0.1), half, half, (3 + 0.1) * half / np.hypot(3, 0.1)]
    assert votes[2] == pytest.approx([2 + sum(near[:2]), 3 + sum(near[2:]), 0], abs=1e-6)
