"""Two reports of the same benchmark: what became slower or faster beyond what its own runs differ by."""

import statistics
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from glassrt.engine.errors import UsageError


class Change(NamedTuple):
    """A row of both reports: medians, and what to think of them."""

    name: str
    unit: str
    before: float
    after: float
    verdict: str

    @property
    def percent(self) -> float:
        """By how much longer the row takes now."""
        return 100 * (self.after / self.before - 1)


def compare_reports(before: Path, after: Path) -> list[Change]:
    """The rows that two reports share. A row is slower if its fastest run now is slower than the slowest before.

    Raises UsageError for files that are no reports, or that share no row.
    """
    older, newer = read_rows(before), read_rows(after)
    changes = []
    for name, row in newer.items():
        if name not in older or older[name]["unit"] != row["unit"]:
            continue
        was, is_now = older[name]["runs"], row["runs"]
        verdict = "slower" if min(is_now) > max(was) else "faster" if max(is_now) < min(was) else "as before"
        changes.append(Change(name, row["unit"], statistics.median(was), statistics.median(is_now), verdict))
    if not changes:
        raise UsageError(f"{before} and {after} share no row: name two reports of the same benchmark")
    return changes


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a report that hold runs, by name. Raises UsageError."""
    try:
        report = msgspec.json.decode(path.read_bytes())
        rows = {row["name"]: row for row in report["rows"] if row.get("runs")}
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from error
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is no report of a benchmark with rows to compare") from error
    return rows
