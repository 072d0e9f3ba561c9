"""The folds of bags: what is kept together, what is kept in a file, and what a file must not say."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glassrt.engine.errors import TrainingError
from glassrt.training.bag_folds import fold_bags, read_folds, write_folds
from glassrt.training.datasets import crchisto, ucsb
from glassrt.training.datasets.bag import LabelledBag

EMPTY = np.zeros((1, 1, 1, 3), np.uint8)
Stored = dict[str, Any]


def named(labels: list[int], groups: list[str] | None = None) -> list[LabelledBag]:
    """Bags that differ in name, group and label alone."""
    names = [f"bag{number}" for number in range(len(labels))]
    return [
        LabelledBag(name, group, label, EMPTY, None, None)
        for name, group, label in zip(names, groups or names, labels, strict=True)
    ]


def real(read: Callable[[Path], list[LabelledBag]]) -> list[LabelledBag]:
    if "GLASSRT_DATA" not in os.environ:
        pytest.skip("GLASSRT_DATA is not set: it names the folder that holds crchisto/ and ucsb/")
    return read(Path(os.environ["GLASSRT_DATA"]))


SETS: dict[str, Callable[[], list[LabelledBag]]] = {
    "made: 100 bags": lambda: named([1] * 51 + [0] * 49),
    "made: 20 patients of 3": lambda: named([0, 1, 1] * 20, [f"p{number // 3}" for number in range(60)]),
    "colon": lambda: real(crchisto.read_bags),
    "breast": lambda: real(ucsb.read_bags),
}


@pytest.mark.parametrize("bags", SETS.values(), ids=SETS)
def test_folds_are_stratified_grouped_and_come_back_from_their_file(
    bags: Callable[[], list[LabelledBag]], tmp_path: Path
) -> None:
    given = bags()
    for seed in range(5):
        folds = fold_bags(given, seed)
        assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(given)))
        for fold in folds:
            assert sorted(np.concatenate(fold)) == list(range(len(given)))
            homes = [{given[index].group for index in part} for part in fold]
            assert sum(map(len, homes)) == len(set.union(*homes))
            assert all({given[index].label for index in part} == {0, 1} for part in fold)
            shares = [len(part) / len(given) for part in fold]
            assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.04)
        write_folds(tmp_path / "folds.json", folds, given, seed)
        order = np.random.default_rng(seed).permutation(len(given))
        shuffled = [given[index] for index in order]
        for fold, back in zip(folds, read_folds(tmp_path / "folds.json", shuffled), strict=True):
            for part, again in zip(fold, back, strict=True):
                assert {given[index].name for index in part} == {shuffled[index].name for index in again}
                assert (np.diff(again) > 0).all()
    assert json.loads((tmp_path / "folds.json").read_text())["seed"] == 4
    assert (tmp_path / "folds.json").stat().st_size < 20_000


def test_another_seed_deals_otherwise() -> None:
    one, two, again = (fold_bags(SETS["made: 100 bags"](), seed) for seed in (1, 2, 1))
    assert all(
        np.array_equal(a, b) for fold, same in zip(one, again, strict=True) for a, b in zip(fold, same, strict=True)
    )
    assert not np.array_equal(one[0].test, two[0].test)


@pytest.mark.parametrize(
    ("labels", "groups", "says"),
    [
        ([0] * 30 + [1] * 4, None, "have no bag of label 1 in the .* part of fold"),
        ([0] * 20 + [1] * 20, ["a"] * 10 + ["b"] * 10 + [f"g{number}" for number in range(20)], "no bag of label 0"),
        ([0, 1] * 20, ["a", "a", "b", "b"] * 10, "2 groups are too few for 5 folds"),
    ],
)
def test_folds_that_would_have_one_label_in_a_part_are_refused(
    labels: list[int], groups: list[str] | None, says: str
) -> None:
    with pytest.raises(TrainingError, match=says):
        fold_bags(named(labels, groups), 1)


def swap(stored: Stored) -> None:
    """A bag of fold 0 is validated on in place of being trained on, and another the other way round."""
    fold = stored["folds"][0]
    fold["train"][0], fold["validation"][0] = fold["validation"][0], fold["train"][0]


def lose_test(stored: Stored) -> None:
    stored["folds"][1] = stored["folds"][0]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (swap, "have 'p.*' in .* and in .* of fold 0"),
        (lose_test, "do not test 'bag.*' exactly once"),
        (lambda stored: stored["folds"].pop(), "do not test 'bag.*' exactly once"),
        (lambda stored: stored["folds"].clear(), "holds no folds"),
        (lambda stored: stored["folds"][2]["train"].pop(), "fold 2: 'bag.*' is listed 0 times"),
        (lambda stored: stored["folds"][2]["train"].append("bag3"), "fold 2: 'bag3' is listed 2 times"),
        (lambda stored: stored["folds"][3]["test"].append("img9"), "fold 3: 'img9' is no bag of the set"),
        (lambda stored: stored["folds"][3].pop("test"), "cannot be read as folds .*`test`"),
        (lambda stored: stored.update(note=1), "cannot be read as folds .*`note`"),
        (lambda stored: stored["folds"][0]["test"].append(7), "cannot be read as folds"),
    ],
)
def test_a_file_that_does_not_fit_the_bags_is_refused_in_a_line(
    tmp_path: Path, spoil: Callable[[Stored], object], says: str
) -> None:
    bags, path = SETS["made: 20 patients of 3"](), tmp_path / "folds.json"
    write_folds(path, fold_bags(bags, 1), bags, 1)
    stored = json.loads(path.read_text())
    spoil(stored)
    path.write_text(json.dumps(stored))
    with pytest.raises(TrainingError, match=rf"folds\.json.*{says}") as told:
        read_folds(path, bags)
    assert "\n" not in str(told.value)


def test_folds_of_other_labels_are_refused(tmp_path: Path) -> None:
    bags, path = named([0, 1] * 20), tmp_path / "folds.json"
    folds = fold_bags(bags, 1)
    write_folds(path, folds, bags, 1)
    tested = set(folds[2].test.tolist())
    relabelled = [bag._replace(label=int(index not in tested)) for index, bag in enumerate(bags)]
    with pytest.raises(TrainingError, match=r"folds\.json have no bag of label [01] in the \w+ part of fold"):
        read_folds(path, relabelled)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b'{"seed": 1}', None])
def test_a_file_that_holds_no_folds_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "folds.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"folds\.json cannot be read as folds"):
        read_folds(path, named([0, 1] * 20))


def test_bags_of_one_name_are_refused(tmp_path: Path) -> None:
    bags = named([0, 1] * 20)
    twins = [*bags[:-1], bags[-1]._replace(name="bag3")]
    with pytest.raises(TrainingError, match="several bags are called 'bag3'"):
        write_folds(tmp_path / "folds.json", fold_bags(bags, 1), twins, 1)
    assert not list(tmp_path.iterdir())
