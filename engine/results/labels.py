"""What is known of whole slides: a table that says of each whether it is benign or malign."""

import csv
import io
from pathlib import Path

from glassrt.engine.bundles.regular_file import read_file
from glassrt.engine.errors import BundleError, UsageError

COLUMNS = ("slide", "label")
LABELS = {"benign": False, "malign": True}
LARGEST_LABELS = 1 << 26  # bytes


def read_labels(path: Path) -> dict[str, bool]:
    """Whether a slide is malign, by the stem of its file's name: a CSV file with the columns slide (a file's name or
    path) and label (benign or malign); others are passed over.

    Raises UsageError, which names the line; also for two slides of one stem and different labels, whose results nothing
    could tell apart.
    """
    try:
        text = read_file(path, LARGEST_LABELS).decode("utf-8-sig")
    except BundleError as error:
        raise UsageError(
            f"{path} cannot be read as labels: expected a CSV file with the columns slide and label"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8: save it as CSV in UTF-8") from error
    labels: dict[str, bool] = {}
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
        if not {*COLUMNS} <= {*rows.fieldnames}:
            raise UsageError(f"{path}: expected the columns slide and label in the first line, divided by commas")
        for row in rows:
            stem, malign = read_row(row, f"{path}, line {rows.line_num}")
            if labels.setdefault(stem, malign) != malign:
                raise UsageError(f"{path}, line {rows.line_num}: {stem!r} has the other label in a line before")
    except csv.Error as error:
        raise UsageError(f"{path}, line {rows.reader.line_num}: not CSV ({error})") from error
    if not labels:
        raise UsageError(f"{path} labels no slide")
    return labels


def read_row(row: dict[str, str | None], place: str) -> tuple[str, bool]:
    """The stem of a row's slide, and whether it is malign. Raises UsageError, which says `place`."""
    slide, label = ((row[column] or "").strip() for column in COLUMNS)
    if not (stem := Path(slide).stem):
        raise UsageError(f"{place}: no slide is named")
    if label.casefold() not in LABELS:
        raise UsageError(f"{place}: label {label[:64]!r} of {stem!r} is neither benign nor malign")
    return stem, LABELS[label.casefold()]
