"""`summary.csv`: one row a slide, whole after every slide, shared by all runs that write into one folder."""

import csv
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from glassrt.engine.bundles.regular_file import read_file
from glassrt.engine.errors import BundleError, OutputError
from glassrt.engine.files import is_same_file, output_errors, replace_file
from glassrt.engine.results.cells import as_text, plain_text
from glassrt.engine.results.figures import Result
from glassrt.engine.results.origin import RESULT, read_origin, read_stored
from glassrt.engine.staging import lock_folder

SUMMARY = "summary.csv"
FAILED = "failed"
LARGEST_SUMMARY = 1 << 28  # bytes
FIGURES = ("mm2", "probability", "tissue_fraction", "regions")  # of each class but the background
SCORES = ("maximum_log_odds", "percentile_99_log_odds", "top_log_odds")  # of the class that slides are scored for
BAG = "bag_probability"  # of each class but the background, where slides are bags of tiles

Row = list[str]


@dataclass(frozen=True)
class Outcome:
    """What became of one slide: its figures, or the one line that says why there are none."""

    path: Path
    result: Result | None = None
    error: str = ""

    @property
    def status(self) -> str:
        if self.result is None:
            return FAILED
        return "no tissue" if self.result.note else "scored"


class Summary:
    """The table of the results in the folder `out`, whose classes but the background are named `classes`; `scored` is
    the one that slides are scored for, if the bundle asks for that, and with `bags` each is one of its classes.

    A slide is named as it was given, one that failed by its absolute path: no `result.json` tells which it is.
    Rows of earlier and of other runs stay as long as their results do. A cell that a spreadsheet would run as a formula
    begins with an apostrophe more than its text. Raises OutputError where the file is not one to go on with.
    """

    def __init__(self, out: Path, classes: Sequence[str], scored: str | None = None, bags: bool = False) -> None:
        self.out, self.path, self.classes, self.scored, self.bags = out, out / SUMMARY, classes, scored, bags
        figures = [f"{name}_{figure}" for name in classes for figure in FIGURES]
        self.columns = [
            *("slide", "status", "tissue_mm2", "analysed_mm2"),
            *figures,
            *(f"{scored}_{score}" for score in SCORES if scored is not None),
            *(f"{name}_{BAG}" for name in classes if bags),
            *("windows", "seconds", "bundle", "warnings", "error"),
        ]

    def begin(self) -> None:
        """Make the rows of scored slides anew from the results that stand.

        They may be gone, or newer than their rows: of a run that was killed, or of a library call, which writes none.
        """

        def agree(rows: list[Row]) -> list[Row]:
            results = sorted(self.out.glob(f"*/{RESULT}"))
            found = {path.parent.name: self.row(outcome) for path in results if (outcome := self.read_outcome(path))}
            kept = []
            for row in rows:
                newer = row if row[1] == FAILED else found.pop(Path(row[0]).stem, None)
                kept += [newer] if newer else []
            return kept + [row for name, row in found.items() if not self.has_row(name, kept)]

        self.update(agree)

    def add(self, outcome: Outcome) -> None:
        """Write the row of an outcome, in place of an older one of the same slide."""

        def put(rows: list[Row]) -> list[Row]:
            places = [index for index, row in enumerate(rows) if self.is_of_slide(row, outcome.path)]
            first = places[0] if places else len(rows)
            later = [row for index, row in enumerate(rows) if index >= first and index not in places]
            return [*rows[:first], self.row(outcome), *later]

        self.update(put)

    def update(self, change: Callable[[list[Row]], list[Row]]) -> None:
        """Replace the rows by what `change` makes of them, while no other run can."""
        with output_errors(self.path), lock_folder(self.out):
            older = self.read()
            rows = change(older)
            if rows == older:
                return
            text = io.StringIO()
            csv.writer(text).writerows([as_text(cell) for cell in row] for row in (self.columns, *rows))
            with replace_file(self.path) as beside:
                beside.write_text(text.getvalue(), encoding="utf-8", newline="")

    def read(self) -> list[Row]:
        """The rows so far; none where there is no file, or an empty one."""
        if not os.path.lexists(self.path):
            return []
        if not self.path.is_file():
            raise OutputError(f"{self.path} is no file; move it away or choose another --out")
        try:
            text = read_file(self.path, LARGEST_SUMMARY).decode("utf-8-sig")
            lines = csv.reader(io.StringIO(text, newline=""), strict=True)
            fits = [plain_text(cell) for cell in next(lines, self.columns)] == self.columns
            rows = [[plain_text(cell) for cell in row] for row in lines if row] if fits else []
        except BundleError as error:
            raise OutputError(
                f"{self.path} cannot be read or has over {LARGEST_SUMMARY} bytes; move it away or choose another --out"
            ) from error
        except (csv.Error, UnicodeDecodeError) as error:
            raise OutputError(f"{self.path} is damaged ({error}); move it away or choose another --out") from error
        if not fits:
            raise OutputError(
                f"{self.path} has other columns: it is of a bundle with other classes than {', '.join(self.classes)} "
                "or with other slide scores, or was not written by this version of GlassRT; "
                "move it away or choose another --out"
            )
        for number, row in enumerate(rows, start=2):
            if len(row) != len(self.columns):
                raise OutputError(f"{self.path} is damaged in row {number}; move it away or choose another --out")
        return rows

    def is_of_slide(self, row: Row, path: Path) -> bool:
        """Whether a row is of the slide at `path`, which it may name otherwise; its results tell which it is of."""
        if Path(row[0]).stem != path.stem:
            return False
        origin = "" if row[1] == FAILED else read_origin(self.out / path.stem)
        return is_same_file(origin or row[0], path)

    def has_row(self, name: str, rows: Sequence[Row]) -> bool:
        """Whether one of the rows is of the slide whose results the folder `name` holds."""
        origin = read_origin(self.out / name)
        return any(Path(row[0]).stem == name and is_same_file(row[0], origin) for row in rows)

    def row(self, outcome: Outcome) -> Row:
        """The row of an outcome."""
        values = [""] * (len(self.columns) - 4)
        if outcome.result is not None:
            figures = summary_figures(outcome.result, self.classes, self.scored, self.bags)
            values = [*figures, str(outcome.result.bundle["name"])]
        warnings = "; ".join(outcome.result.warnings) if outcome.result else ""
        named = os.path.abspath(outcome.path) if outcome.result is None else str(outcome.path)
        return [named, outcome.status, *values, warnings, outcome.error]

    def read_outcome(self, path: Path) -> Outcome | None:
        """The outcome that the `result.json` at `path` tells of; None if it is of no file, or not of such a bundle."""
        result = read_stored(path.parent, Result)
        if result is None:
            return None
        if "name" not in result.bundle or "run" not in result.windows or "total" not in result.seconds:
            return None
        given = result.slide.get("given")
        if not isinstance(given, str) or Path(given).stem != path.parent.name:
            return None
        return Outcome(Path(given), result) if list(result.classes)[1:] == list(self.classes) else None


def summary_figures(result: Result, names: Sequence[str], scored: str | None, bags: bool = False) -> list[str]:
    """The figures of a row: of the slide, of each class in `names`, the scores of the class `scored`, with `bags` the
    probabilities of the slide as one, and of the work.

    Cells of scores and bags are empty where the result has none, as where nothing was analysed.
    """
    values: list[float | None] = [result.tissue_mm2, result.analysed_mm2]
    for name in names:
        found = result.classes[name]
        values += [found.area_mm2, found.mean_probability, found.tissue_fraction, found.regions]
    if scored is not None:
        scores = result.slide_scores
        values += [getattr(scores, score) if scores and scores.of == scored else None for score in SCORES]
    if bags:
        values += [result.bag.probabilities.get(name) if result.bag else None for name in names]
    values += [result.windows["run"], result.seconds["total"]]
    return ["" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value) for value in values]
