"""One `summary.csv` of a batch that was scored in parts."""

from collections.abc import Sequence
from pathlib import Path

from glassrt.engine.production.journal import JOURNAL, Row
from glassrt.engine.production.table import Table
from glassrt.engine.results.summary import SUMMARY


def write_totals(out: Path, rows: Sequence[Row]) -> Path | None:
    """Write the summary of all parts and return its path; None where the batch was not in parts. Raises OutputError."""
    if (out / JOURNAL).exists():
        return None
    Table(out / SUMMARY, out, [row for row in rows if row.state in ("done", "failed")]).write()
    return out / SUMMARY
