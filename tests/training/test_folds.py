"""Folds of the sets that are cross-validated: by name where images are independent, else by patient or slide."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest

from glassrt.engine.errors import TrainingError
from glassrt.training.folds import make_folds


class Set(NamedTuple):
    """The labels and groups of a set, and how far a part's count of a label may be from its share."""

    labels: list[int]
    groups: list[str]
    slack: float


def grouped(sizes: list[int], positive: list[int]) -> tuple[list[int], list[str]]:
    """Things in groups of these sizes, so many of each positive."""
    labels = [int(number < many) for size, many in zip(sizes, positive, strict=True) for number in range(size)]
    return labels, [f"g{group}" for group, size in enumerate(sizes) for _ in range(size)]


SETS = {
    "colon: 100 images, 51 positive": Set([1] * 51 + [0] * 49, [f"img{n}" for n in range(100)], 1),
    "GlaS: 85 images of 15 patients": Set(
        *grouped([16, 15, 12, 8, 8, 4, 4, 4, 4, 4, 2, 1, 1, 1, 1], [16, 4, 8, 4, 0, 0, 4, 0, 4, 4, 2, 1, 1, 0, 0]), 7
    ),
    "slides of tiles: 10 a class and slide": Set(
        [label for slide in range(10) for label in range(8) for _ in range(10)],
        [f"HE-{slide}" for slide in range(10) for _ in range(80)],
        0,
    ),
    "breast: 58 images of 10 slides": Set(*grouped([6] * 9 + [4], [3] * 8 + [0, 2]), 3),
    # More than half of them are of one array, whatever its share should be.
    "breast: 58 images of 5 arrays": Set(*grouped([34, 6, 6, 6, 6], [17, 3, 3, 3, 0]), 16),
}


@pytest.fixture(params=SETS.values(), ids=SETS)
def given(request: pytest.FixtureRequest) -> Set:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", range(3))
def test_folds_are_disjoint_cover_all_and_keep_groups_together(given: Set, seed: int) -> None:
    folds = make_folds(given.labels, given.groups, 5, 0.1, seed)
    everything = list(range(len(given.labels)))
    assert sorted(np.concatenate([fold.test for fold in folds])) == everything
    for fold in folds:
        assert sorted(np.concatenate(fold)) == everything
        assert all(len(part) for part in fold)
        homes = [{given.groups[index] for index in part} for part in fold]
        assert not homes[0] & homes[1] | homes[0] & homes[2] | homes[1] & homes[2]


@pytest.mark.parametrize("seed", range(3))
def test_every_part_has_its_share_of_each_label(given: Set, seed: int) -> None:
    for fold in make_folds(given.labels, given.groups, 5, 0.1, seed):
        for part, share in zip(fold, (0.7, 0.1, 0.2), strict=True):
            counts = Counter(given.labels[index] for index in part)
            for label, total in Counter(given.labels).items():
                assert abs(counts[label] - share * total) <= given.slack, (label, share)


def test_folds_are_those_of_the_seed_whatever_the_order_of_the_things(given: Set) -> None:
    def homes(order: np.ndarray, seed: int) -> list[list[set[str]]]:
        labels, groups = [given.labels[index] for index in order], [given.groups[index] for index in order]
        return [
            [{groups[index] for index in part} for part in fold] for fold in make_folds(labels, groups, 5, 0.1, seed)
        ]

    listed = np.arange(len(given.labels))
    assert homes(listed, 1) == homes(np.random.default_rng(0).permutation(listed), 1)
    assert homes(listed, 1) != homes(listed, 2)


def test_validation_can_be_left_out() -> None:
    folds = make_folds([0, 1] * 10, [str(number) for number in range(20)], 4, 0.0, 1)
    assert [(len(fold.train), len(fold.validation), len(fold.test)) for fold in folds] == [(15, 0, 5)] * 4


@pytest.mark.parametrize(
    ("groups", "folds", "validation", "says"),
    [
        (10, 1, 0.1, "1 folds with a validation share of 0.1 leave nothing to train on"),
        (10, 2, 0.5, "2 folds with a validation share of 0.5 leave nothing to train on"),
        (10, 5, -0.1, "5 folds with a validation share of -0.1"),
        (4, 5, 0.0, "4 groups are too few for 5 folds"),
        (2, 2, 0.1, "2 groups are too few for 2 folds with a validation share of 0.1"),
    ],
)
def test_folds_that_would_be_empty_are_refused(groups: int, folds: int, validation: float, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        make_folds([0] * 20, [f"g{number % groups}" for number in range(20)], folds, validation, 1)
