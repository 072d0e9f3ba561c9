"""Cross-validation: things dealt into folds."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import TrainingError

Indices = NDArray[np.int64]


class Fold(NamedTuple):
    """What one network of a cross-validation learns from, is chosen by and is tested on: rising indices."""

    train: Indices
    validation: Indices
    test: Indices


def make_folds(
    labels: Sequence[Hashable], groups: Sequence[str], folds: int, validation: float, seed: int
) -> list[Fold]:
    """`folds` folds of `len(labels)` things; each thing is tested in exactly one.

    Things of one group (a patient, a slide) stay together; without groups, give each thing its own name. `validation`
    is its share of all things: 5 folds and 0.1 give 70 % / 10 % / 20 %. Every part has each label's share of it as
    nearly as whole groups allow. Which groups go where depends on their names, sizes and labels and the seed, not on
    the order of the things. Raises TrainingError if a part would be empty.
    """
    if folds < 2 or not 0 <= validation < 1 - 1 / folds:
        raise TrainingError(f"{folds} folds with a validation share of {validation} leave nothing to train on")
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    kinds = {label: number for number, label in enumerate(sorted(set(labels), key=str))}
    counts = np.zeros((len(names), len(kinds)))
    for group, label in zip(group_of, labels, strict=True):
        counts[group, kinds[label]] += 1
    tested = deal(counts, np.full(folds, 1 / folds), np.random.default_rng(seed))
    made = []
    for fold in range(folds):
        rest = np.flatnonzero(tested != fold)
        share = validation / (1 - 1 / folds)
        part = np.full(len(names), 2)
        part[rest] = deal(counts[rest], np.array([1 - share, share]), np.random.default_rng([seed, fold]))
        made.append(Fold(*(np.flatnonzero(part[group_of] == number) for number in range(3))))
    if any(not (len(each.train) and len(each.test) and (len(each.validation) or not validation)) for each in made):
        raise TrainingError(
            f"{len(names)} groups are too few for {folds} folds with a validation share of {validation}"
        )
    return made


def deal(counts: NDArray[np.float64], shares: NDArray[np.float64], random: np.random.Generator) -> Indices:
    """The part `[G]` that each group goes to, so that the parts hold near `shares` of every label and of all.

    `counts` `[G, L]` says how many things of each label a group has. Large groups are dealt before small ones, but for
    chance where one is less than twice the other, and each to the part that it brings nearest to its shares.
    """
    counts = np.column_stack([counts, counts.sum(1)])
    counts = counts / np.maximum(counts.sum(0), 1)  # a rare label weighs as much as a common one
    order = np.argsort(-counts[:, -1] * random.uniform(0.5, 1, len(counts)))
    missing = np.repeat(shares[:, None], counts.shape[1], axis=1)
    parts = np.zeros(len(counts), np.int64)
    filled = shares == 0
    for left, group in zip(range(len(order), 0, -1), order, strict=True):
        gain = (missing**2 - (missing - counts[group]) ** 2).sum(1)
        if left <= (~filled).sum():
            gain[filled] = -np.inf  # the last groups, which are small, go where there is nothing yet
        parts[group] = gain.argmax()
        missing[parts[group]] -= counts[group]
        filled[parts[group]] = True
    return parts
