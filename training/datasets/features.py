"""Features of whole slides that a lab has stored, one HDF5 file a slide, and a table of what each slide is.

Files are as TRIDENT, CLAM or STAMP write them, or `glassrt embed`. Beside them lies `labels.csv`, in UTF-8:

    slide,label,group
    features/1.h5,benign,patient 7
    features/2.h5,malign,patient 9

`.h5` may be left out. Slides of one `group`, as a patient, stay together in cross-validation; without that column, or
where it is empty, each slide is a group of its own. What the labels are, and which of them is the negative one, the
settings say: the set has no classes of its own.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from glassrt.engine.bundles.parts import Making
from glassrt.engine.errors import DatasetError
from glassrt.engine.results.features import read_features
from glassrt.training.datasets.bag import LabelledBag
from glassrt.training.datasets.drawings import SHOWN
from glassrt.training.datasets.stored import StoredInstances
from glassrt.training.datasets.tables import read_rows
from glassrt.training.datasets.weak import LABELS, is_file

COLUMNS, GROUP, SUFFIX = ("slide", "label"), "group", ".h5"
ADVICE = f"it needs the columns {' and '.join(COLUMNS)}, a row a slide, and may have {GROUP}"


def read_bags(folder: Path, classes: Sequence[str]) -> list[LabelledBag]:
    """The slides of `labels.csv` in its order, labelled by their places in `classes`; named as there, without `.h5`.

    Raises DatasetError, or SlideError for a file that is none of features. Whether all of them are numbers is seen when
    they are read.
    """
    path = folder / LABELS
    if not path.is_file():
        raise DatasetError(f"{folder}: no {LABELS} here; {ADVICE}")
    bags: list[LabelledBag] = []
    rows: dict[Path, int] = {}  # of each file
    for number, row in enumerate(read_rows(path, COLUMNS, ADVICE), start=1):
        name, label = ((row[column] or "").strip() for column in COLUMNS)
        where = f"{path}, slide {number}"
        if label not in classes:
            raise DatasetError(f"{where}: the label {label[:SHOWN]!r} is none of the classes, {', '.join(classes)}")
        file = find_file(folder, name, where)
        if (first := rows.setdefault(file.resolve(), number)) != number:
            raise DatasetError(f"{where}: {name[:SHOWN]!r} is slide {first} already; leave one of the rows out")
        name = name.removesuffix(SUFFIX)
        group = (row.get(GROUP) or "").strip() or name
        bags.append(LabelledBag(name, group, classes.index(label), find_instances(file), None, None))
    for number, label in enumerate(classes):
        if all(bag.label != number for bag in bags):
            raise DatasetError(f"{path} has no slide of the class {label!r}; label some of each, {', '.join(classes)}")
    refuse_mixed(bag.instances for bag in bags if isinstance(bag.instances, StoredInstances))
    return bags


def find_file(folder: Path, name: str, where: str) -> Path:
    """The file of features that a row names."""
    for file in (folder / name, folder / f"{name}{SUFFIX}"):
        if name and is_file(file):
            return file
    raise DatasetError(
        f"{where}: there is no file {name[:SHOWN]!r} or {name[:SHOWN] + SUFFIX!r} in {folder}; correct its path or "
        "leave the row out"
    )


def find_instances(file: Path) -> StoredInstances:
    """The instances in a file. Raises SlideError for one of another layout, DatasetError for one without tiles."""
    with read_features(file) as stored:
        shape, making = stored.table.shape, stored.making
    if not all(shape):
        raise DatasetError(f"{file} holds no features: leave its row out, or embed the slide again")
    return StoredInstances(file, shape, making)


def refuse_mixed(instances: Iterable[StoredInstances]) -> None:
    """Raise DatasetError for files that differ in what they say of how they were made: what one encoder gives means
    nothing where another's is expected. What a file does not say is not asked.
    """
    firsts: dict[str, StoredInstances] = {}  # that say something
    for each in instances:
        for what in ("encoder", "side", "mpp", "length"):
            if what != "length" and getattr(each.making, what) is None:
                continue
            first = firsts.setdefault(what, each)
            told = first.making.differ(each.making)
            if first.shape[1] != each.shape[1]:
                told = f"features of {first.shape[1]} numbers", f"features of {each.shape[1]} numbers"
            if told:
                raise DatasetError(f"{first.path} has {told[0]}, {each.path} {told[1]}: embed all slides alike")


def find_making(bags: Sequence[LabelledBag]) -> Making:
    """How the features of bags were made, as the first of the files tells that says it."""
    makings = [bag.instances.making for bag in bags if isinstance(bag.instances, StoredInstances)]
    told = {name: [getattr(each, name) for each in makings] for name in Making.__struct_fields__}
    return Making(**{name: next((each for each in all if each is not None), None) for name, all in told.items()})
