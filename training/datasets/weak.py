"""Slides of which a label alone is known, benign or malign: what weakly supervised segmentation learns from.

A lab's own slides are listed in a plain table `labels.csv` with the columns `slide` and `label`, in UTF-8:

    slide,label
    scans/1.svs,benign
    scans/2.svs,malign

A column `split` may say which part of the set a slide belongs to, as `train` or `test`; without it all slides are the
split `all`, so that nobody takes scores of the slides that were trained on for those of others.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError
from glassrt.engine.geometry.boxes import Box, Size
from glassrt.training.datasets.drawings import SHOWN
from glassrt.training.datasets.labelled import Truth
from glassrt.training.datasets.tables import read_rows

CLASSES = ("benign", "malign")
LABELS = "labels.csv"
COLUMNS, SPLIT, ALL = ("slide", "label"), "split", "all"
ADVICE = f"it needs the columns {' and '.join(COLUMNS)}, a row a slide"


class WeakSlide(NamedTuple):
    """A slide's file and label. `mpp` is what the set says of its resolution; None: the file says it.

    `truth` has the numbers in `CLASSES` and is for evaluation alone; None: where it is malign is not known.
    """

    name: str
    path: Path
    mpp: float | None
    malign: bool
    truth: Truth | None


def find_slides(folder: Path, split: str) -> list[WeakSlide]:
    """The slides of a lab's own table in `folder`, `labels.csv`: those of a split, which `all` is too.

    Raises DatasetError, also for another split where the table has no such column.
    """
    path = folder / LABELS
    if not path.is_file():
        raise DatasetError(f"{folder}: no {LABELS} here; {ADVICE}")
    return read_labels(path, None if split == ALL else split)


class NoLesion:
    """The truth of a benign slide."""

    def cut(self, box: Box, grid: Size) -> NDArray[np.uint8]:
        """As `Truth.cut`."""
        return np.zeros(box.size[::-1], np.uint8)


def read_labels(path: Path, split: str | None = None) -> list[WeakSlide]:
    """The slides of a label file in its order; their paths start from its folder. With a `split`, those that the file
    says are of it. Raises DatasetError.
    """
    slides: list[WeakSlide] = []
    rows: dict[Path, int] = {}  # of each file
    advice = ADVICE if split is None else f"without it all slides are one split: ask for {ALL!r}"
    columns = COLUMNS if split is None else (*COLUMNS, SPLIT)
    for number, row in enumerate(read_rows(path, columns, advice), start=1):
        name, label = ((row[column] or "").strip() for column in COLUMNS)
        file, where = path.parent / name, f"{path}, slide {number}"
        if label.casefold() not in CLASSES:
            raise DatasetError(f"{where}: the label {label[:SHOWN]!r} is neither {' nor '.join(CLASSES)}")
        if not name or not is_file(file):
            raise DatasetError(
                f"{where}: there is no file {name[:SHOWN]!r} in {path.parent}; correct its path or leave the row out"
            )
        if (first := rows.setdefault(file.resolve(), number)) != number:
            raise DatasetError(f"{where}: {name[:SHOWN]!r} is slide {first} already; leave one of the rows out")
        if split is None or (row[SPLIT] or "").strip() == split:
            slides.append(WeakSlide(file.stem, file, None, label.casefold() == CLASSES[1], None))
    if len({slide.malign for slide in slides}) < len(CLASSES):
        held = f"{CLASSES[slides[0].malign]} slides alone" if slides else "no slide"
        part = "" if split is None or len(slides) == len(rows) else f" of the split {split!r}"
        raise DatasetError(f"{path} holds {held}{part}; label some of both, {' and '.join(CLASSES)}")
    return slides


def is_file(path: Path) -> bool:
    """Whether there is a file of that name, whatever the name holds."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # of a name that no file can have
        return False
