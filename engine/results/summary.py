"""`summary.csv`: one row a slide of a batch, whole whenever it is written."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glassrt.engine.bundles.kinds.mil import Mil
from glassrt.engine.bundles.kinds.segmentation import Segmentation
from glassrt.engine.files import output_errors, replace_file
from glassrt.engine.results.cells import as_text
from glassrt.engine.results.figures import Result

SUMMARY = "summary.csv"
FAILED = "failed"
FIGURES = ("mm2", "probability", "tissue_fraction", "regions")  # of each class but the background
SCORES = ("maximum_log_odds", "percentile_99_log_odds", "top_log_odds")  # of the class that slides are scored for
BAG = "bag_probability"  # of each class but the background, where slides are bags of tiles
FIRST, WORK, LAST = ("id", "slide", "status", "tissue_mm2", "analysed_mm2"), ("windows", "seconds", "bundle"), (
    "warnings",
    "error",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What became of one slide: its figures, or the one line that says why there are none."""

    path: Path | str  # of its file, or its address elsewhere
    result: Result | None = None
    error: str = ""

    @property
    def status(self) -> str:
        if self.result is None:
            return FAILED
        return "no tissue" if self.result.note else "scored"


class Summary:
    """The table of the slides in a batch, in the order of their ids here; `figures` are the columns of
    what was found, `beside` those that a manifest has of its own.

    A cell that a spreadsheet would run as a formula begins with an apostrophe more than its text.
    """

    def __init__(self, path: Path, ids: Iterable[str], figures: Iterable[str], beside: Sequence[str]) -> None:
        self.path = path
        self._columns = [*FIRST, *dict.fromkeys(figures), *WORK, *LAST]
        self._beside = {name: name if name not in self._columns else f"manifest_{name}" for name in beside}
        self._rows: dict[str, Mapping[str, str] | None] = dict.fromkeys(ids)

    def put(self, id: str, outcome: Outcome, beside: Mapping[str, str]) -> None:
        """Set a slide's row."""
        row = {"id": id, "slide": str(outcome.path), "status": outcome.status, "error": outcome.error}
        if outcome.result is not None:
            row |= tell_figures(outcome.result)
        self._rows[id] = row | {self._beside[name]: cell for name, cell in beside.items()}

    def write(self) -> None:
        """Write all rows that there are. Raises OutputError."""
        text = io.StringIO()
        columns = [*self._columns, *self._beside.values()]
        rows = (row for row in self._rows.values() if row is not None)
        lines = [columns, *([row.get(name, "") for name in columns] for row in rows)]
        csv.writer(text).writerows([as_text(cell) for cell in line] for line in lines)
        with output_errors(self.path), replace_file(self.path) as beside:
            beside.write_text(text.getvalue(), encoding="utf-8", newline="")


def name_figures(bundle: Segmentation) -> list[str]:
    """The columns of what a bundle finds."""
    names = [info.name for info in bundle.classes[1:]]
    return [
        *(f"{name}_{figure}" for name in names for figure in FIGURES),
        *(f"{bundle.slide_scores.of}_{score}" for score in SCORES if bundle.slide_scores),
        *(f"{name}_{BAG}" for name in names if isinstance(bundle, Mil)),
    ]


def name_found(result: Result) -> list[str]:
    """The columns of what a slide's result has figures for."""
    return [name for name in tell_figures(result) if name not in (*FIRST, *WORK, *LAST)]


def tell_figures(result: Result) -> dict[str, str]:
    """The cells of a slide's result by their columns; those that it has no figure for are left out."""
    found: dict[str, object] = {"tissue_mm2": result.tissue_mm2, "analysed_mm2": result.analysed_mm2}
    for name, figures in list(result.classes.items())[1:]:
        values = (figures.area_mm2, figures.mean_probability, figures.tissue_fraction, figures.regions)
        found |= {f"{name}_{figure}": value for figure, value in zip(FIGURES, values, strict=True)}
    if scores := result.slide_scores:
        found |= {f"{scores.of}_{score}": getattr(scores, score) for score in SCORES}
    if result.bag:
        found |= {f"{name}_{BAG}": value for name, value in result.bag.probabilities.items()}
    found |= {"windows": result.windows["run"], "seconds": result.seconds["total"], "bundle": result.bundle["name"]}
    found["warnings"] = "; ".join(result.warnings)
    return {name: show(value) for name, value in found.items()}


def show(value: object) -> str:
    """A figure as a cell has it."""
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
