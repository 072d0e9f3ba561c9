"""The summary of a batch, kept while it runs: a row for each slide whose end the journal knows."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from glassrt.engine.bundles.kinds.segmentation import Segmentation
from glassrt.engine.production.journal import Row
from glassrt.engine.results.figures import Result
from glassrt.engine.results.origin import read_stored
from glassrt.engine.results.summary import Outcome, Summary, name_figures, name_found

WRITTEN_EVERY_S = 5.0  # a summary of thousands of rows takes a while


class Table:
    """`summary.csv` at `path` of the slides in the folder `out`: of `rows` what has ended, then what is put."""

    def __init__(self, path: Path, out: Path, rows: Sequence[Row], bundles: Iterable[Segmentation] = ()) -> None:
        ended = [(row, read_outcome(out, row)) for row in rows if row.state in ("done", "failed")]
        figures = [name for bundle in bundles for name in name_figures(bundle)]
        figures += [name for _, outcome in ended if outcome.result for name in name_found(outcome.result)]
        beside = list(dict.fromkeys(name for row in rows for name in row.columns))
        self._summary = Summary(path, [row.id for row in rows], figures, beside)
        self._written = 0.0
        for row, outcome in ended:
            self._summary.put(row.id, outcome, row.columns)

    def put(self, row: Row, outcome: Outcome) -> None:
        """A slide has ended; the file is written if it has not been for a while. Raises OutputError."""
        self._summary.put(row.id, replace(outcome, path=row.address), row.columns)
        if time.monotonic() - self._written > WRITTEN_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write the file. Raises OutputError."""
        self._summary.write()
        self._written = time.monotonic()


def read_outcome(out: Path, row: Row) -> Outcome:
    """What became of a slide, by its results."""
    return Outcome(row.address, read_stored(out / row.id, Result) if row.state == "done" else None, row.error)
