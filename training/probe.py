"""What features are worth as they are: a linear classifier of them, and their nearest neighbours."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

Features = NDArray[np.float32]
NEIGHBOURS = 5
LEAST = 1e-6  # of a feature's mean, from which on it varies: less is rounding
ROUNDS = 200  # of L-BFGS at most


def classify_linearly(known: Features, labels: NDArray[np.int64], features: Features, classes: int) -> Features:
    """Logits `[M, C]` of features `[M, D]`, by logistic regression on known ones `[N, D]` with labels `[N]`.

    Features are standardised by the known ones; the penalty is half the squared length of the weights over N, as
    scikit-learn's at C = 1.
    """
    mean, deviation = known.mean(0, dtype=np.float64), known.std(0, dtype=np.float64)
    varies = deviation > LEAST * np.maximum(np.abs(mean), LEAST)
    scale = np.where(varies, deviation, np.inf)  # what never varied says nothing
    given, asked = (torch.from_numpy((each - mean) / scale) for each in (known, features))
    truth = torch.from_numpy(labels)
    weight = torch.zeros(given.shape[1], classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def evaluate() -> torch.Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(given @ weight + bias, truth) + weight.square().sum() / (2 * len(given))
        loss.backward()
        return loss

    optimiser.step(evaluate)
    with torch.no_grad():
        logits: Features = (asked @ weight + bias).float().numpy()
        return logits


def classify_by_neighbours(known: Features, labels: NDArray[np.int64], features: Features, classes: int) -> Features:
    """Votes `[M, C]` of the `NEIGHBOURS` known features `[N, D]` of the highest cosine, each 1 more than that."""
    near = normalise(features) @ normalise(known).T
    chosen = np.argsort(-near, axis=1, kind="stable")[:, :NEIGHBOURS]
    votes = np.zeros((len(features), classes), np.float32)
    for place in chosen.T:
        rows = np.arange(len(features))
        votes[rows, labels[place]] += 1 + near[rows, place]
    return votes


def normalise(features: Features) -> Features:
    """Features of length 1; those that are zero stay so."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)
