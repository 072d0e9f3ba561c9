"""The folds that bags are cross-validated in, as a small file that a later run can be held to."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from glassrt.engine.errors import TrainingError, first_line
from glassrt.engine.files import replace_file, write_json
from glassrt.training.datasets.bag import LabelledBag
from glassrt.training.folds import Fold, make_folds

FOLDS = 5
VALIDATION = 0.1  # Distill-to-Label, section IV.A: 70 % / 10 % / 20 %
SHOWN = 60  # characters of a name that are repeated


class Parts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The names of a fold's bags."""

    train: list[str]
    validation: list[str]
    test: list[str]


class Folds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file of folds holds."""

    seed: int
    folds: list[Parts]


def fold_bags(bags: Sequence[LabelledBag], seed: int) -> list[Fold]:
    """Five folds of indices of bags, 70 % / 10 % / 20 %, stratified by label; groups stay together.

    Each bag is tested in exactly one. Raises TrainingError where groups are too few, or so uneven that a part would
    have bags of one label only: then another seed may do, and nothing is moved in silence.
    """
    folds = make_folds([bag.label for bag in bags], [bag.group for bag in bags], FOLDS, VALIDATION, seed)
    check_folds(folds, bags, f"the folds of seed {seed}")
    return folds


def check_folds(folds: Sequence[Fold], bags: Sequence[LabelledBag], source: str) -> None:
    """Raise TrainingError, which begins with the `source`, unless the folds are such as `fold_bags` promises."""
    tests = Counter(index for fold in folds for index in fold.test.tolist())
    if wrong := [bag.name for index, bag in enumerate(bags) if tests[index] != 1]:
        raise TrainingError(f"{source} do not test {wrong[0][:SHOWN]!r} exactly once; make them again")
    labels = {bag.label for bag in bags}
    for number, fold in enumerate(folds):
        homes: dict[str, str] = {}
        for name, part in fold._asdict().items():
            if missing := labels - {bags[index].label for index in part}:
                raise TrainingError(
                    f"{source} have no bag of label {min(missing)} in the {name} part of fold {number}: take another "
                    f"seed, or more groups ({len({bag.group for bag in bags})} now)"
                )
            for index in part:
                group = bags[index].group
                if (home := homes.setdefault(group, name)) != name:
                    raise TrainingError(f"{source} have {group[:SHOWN]!r} in {home} and in {name} of fold {number}")


def write_folds(path: Path, folds: Sequence[Fold], bags: Sequence[LabelledBag], seed: int) -> None:
    """Write the folds as JSON, by the bags' names. Raises TrainingError for names that occur twice."""
    number_bags(bags)
    named = [Parts(*([bags[index].name for index in part] for part in fold)) for fold in folds]
    with replace_file(path) as beside:
        write_json(beside, Folds(seed, named))


def read_folds(path: Path, bags: Sequence[LabelledBag]) -> list[Fold]:
    """The folds in a file, as indices of bags in whatever order they are.

    Raises TrainingError if that is no such file, if a fold has other bags than these, or any of them twice or not at
    all, and for folds that `fold_bags` would not have made.
    """
    numbers = number_bags(bags)
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=Folds)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path} cannot be read as folds ({first_line(error)}); make them again") from error
    if not stored.folds:
        raise TrainingError(f"{path} holds no folds; make them again")
    folds = []
    for number, parts in enumerate(stored.folds):
        listed = Counter([*parts.train, *parts.validation, *parts.test])
        for name in sorted({*numbers, *listed}):
            if listed[name] != 1 or name not in numbers:
                told = "is no bag of the set" if name not in numbers else f"is listed {listed[name]} times"
                raise TrainingError(f"{path}, fold {number}: {name[:SHOWN]!r} {told}; make the folds again")
        named = (parts.train, parts.validation, parts.test)
        folds.append(Fold(*(np.sort(np.array([numbers[name] for name in part], np.int64)) for part in named)))
    check_folds(folds, bags, str(path))
    return folds


def number_bags(bags: Sequence[LabelledBag]) -> dict[str, int]:
    """The index of each bag by its name."""
    numbers = {bag.name: index for index, bag in enumerate(bags)}
    if len(numbers) < len(bags):
        name, _ = Counter(bag.name for bag in bags).most_common(1)[0]
        raise TrainingError(f"several bags are called {name[:SHOWN]!r}: folds are kept by name")
    return numbers
