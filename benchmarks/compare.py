"""Two reports of the same benchmark: what became slower or faster beyond what its own runs differ by."""

import statistics
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from glassrt.engine.errors import UsageError

FEWEST_RUNS = 3


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


class Row(msgspec.Struct):
    """What a comparison needs of a report's row."""

    name: str
    unit: str
    runs: Annotated[list[Annotated[float, msgspec.Meta(gt=0)]], msgspec.Meta(min_length=1)]


class Report(msgspec.Struct):
    """What a comparison needs of a report; what was measured must be the same in both."""

    rows: list[Row]
    machine: dict[str, Any] = {}
    slide: Any = None
    bundle: Any = None
    backend: Any = None
    windows: Any = None
    pixels: Any = None
    scales: Any = None

    @property
    def subject(self) -> dict[str, Any]:
        """What was measured."""
        names = ("slide", "bundle", "backend", "windows", "pixels", "scales")
        return {name: getattr(self, name) for name in names}


def compare_reports(before: Path, after: Path) -> list[Change]:
    """The rows that two reports share. A row is slower if its fastest run now is slower than the slowest before.

    With fewer than three runs on a side nothing is said. Raises UsageError for files that are no reports, that share no
    row, or that measured different things.
    """
    older, newer = read_report(before), read_report(after)
    for name, was in older.subject.items():
        if was != newer.subject[name]:
            raise UsageError(f"{before} and {after} measured different things: {name} {was} and {newer.subject[name]}")
    earlier = {row.name: row for row in older.rows}
    changes = []
    for row in newer.rows:
        same = earlier.get(row.name)
        if same is None or same.unit != row.unit:
            continue
        verdict = (
            "slower" if min(row.runs) > max(same.runs) else "faster" if max(row.runs) < min(same.runs) else "as before"
        )
        if min(len(row.runs), len(same.runs)) < FEWEST_RUNS:
            verdict = "too few runs"
        changes.append(Change(row.name, row.unit, statistics.median(same.runs), statistics.median(row.runs), verdict))
    if not changes:
        raise UsageError(f"{before} and {after} share no row: name two reports of the same benchmark")
    return changes


def judge(before: list[float], after: list[float]) -> str:
    """What to think of runs of the same work, in words."""
    if min(len(before), len(after)) < FEWEST_RUNS:
        return "too few runs"
    if min(after) > max(before):
        return "slower"
    return "faster" if max(after) < min(before) else "as before"


def differing_machine(before: Path, after: Path) -> list[str]:
    """What differs between the machines of two reports, the date and the load aside."""
    older, newer = read_report(before).machine, read_report(after).machine
    names = sorted((older.keys() | newer.keys()) - {"date", "load"})
    return [name for name in names if older.get(name) != newer.get(name)]


def read_report(path: Path) -> Report:
    """A report of a benchmark. Raises UsageError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from error
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path} is no report of a benchmark with rows to compare ({error})") from error
