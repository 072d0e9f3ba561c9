"""Many files of features: each on its own, one table for all."""

import csv
import io
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.regular_file import read_file
from glassrt.engine.errors import BundleError, OutputError
from glassrt.engine.files import output_errors, prepare_folder, replace_file
from glassrt.engine.production.names import check_names
from glassrt.engine.production.scoring import Fault, attempt
from glassrt.engine.results.cells import as_text, plain_text
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.staging import lock_folder
from glassrt.engine.tasks.stored import StoredResult, find_head, score_features

BAGS = "bags.csv"
LARGEST_TABLE = 1 << 28  # bytes


class StoredOutcome(NamedTuple):
    """What became of one file: its figures, or the one line that says why there are none."""

    path: Path
    result: StoredResult | None
    error: str


def score_files(paths: Sequence[Path], bundle: Bundle, backend: Backend, out: Path) -> list[StoredOutcome]:
    """Score every file of features into a folder of its own in `out`, and all into `bags.csv`; one that fails does not
    stop the rest.

    Raises, before any work, UsageError when two would share a folder or the bundle
    takes no features; and OutputError when results cannot be written.
    """
    names = [info.name for info in find_head(bundle).classes[1:]]
    check_names(paths, BAGS)
    prepare_folder(out)
    table = BagTable(out / BAGS, names)
    table.read()
    outcomes = []
    for path in paths:
        found = attempt(path, partial(score_features, path, bundle, out / path.stem, backend))
        if isinstance(found, Fault):
            outcomes.append(StoredOutcome(path, None, found.error))
        else:
            outcomes.append(StoredOutcome(path, found, ""))
        table.add(outcomes[-1])
    return outcomes


class BagTable:
    """`bags.csv`: a row for each file, its tiles, its probability of each class but the background, or what went wrong.

    Whole after every file; rows of other files stay. Cells are as of `summary.csv`.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path, self._names = path, names
        self._columns = ["file", "tiles", *(f"{name}_bag_probability" for name in names), "error"]

    def read(self) -> dict[str, list[str]]:
        """The rows so far, by their files. Raises OutputError where the file is another table."""
        if not self._path.exists():
            return {}
        try:
            text = read_file(self._path, LARGEST_TABLE).decode("utf-8-sig")
            columns, *rows = ([plain_text(cell) for cell in row] for row in csv.reader(io.StringIO(text), strict=True))
        except (BundleError, UnicodeDecodeError, csv.Error, ValueError):
            columns, rows = [], []
        if columns != self._columns:
            raise OutputError(f"{self._path} is no table of bags of these classes: move it or choose another --out")
        return {row[0]: row for row in rows}

    def add(self, outcome: StoredOutcome) -> None:
        """Write the row of an outcome, in place of an older one of the same file."""
        bag = outcome.result.bag if outcome.result else None
        figures = [f"{bag.probabilities[name]:.6g}" if bag else "" for name in self._names]
        name = os.path.abspath(outcome.path)
        row = [name, str(bag.tiles) if bag else "", *figures, outcome.error]
        with output_errors(self._path), lock_folder(self._path.parent):
            rows = [self._columns, *(self.read() | {name: row}).values()]
            text = io.StringIO()
            csv.writer(text).writerows([as_text(cell) for cell in each] for each in rows)
            with replace_file(self._path) as beside:
                beside.write_text(text.getvalue(), encoding="utf-8", newline="")
