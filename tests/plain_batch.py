"""Slides that are scored at once, and what a batch of them leaves."""

import csv
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile

from glassrt.engine import open_bundle
from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE
from glassrt.engine.production.batch import Batch, Options
from glassrt.engine.production.entries import list_entries
from glassrt.engine.production.executor import Executor
from glassrt.engine.production.here import Here
from glassrt.engine.production.journal import JOURNAL, Journal, read_ids
from glassrt.engine.production.plan import Plan
from glassrt.engine.production.wire import Failed, Lost, Order, Setup
from glassrt.engine.results.summary import SUMMARY, Outcome

BUNDLE = open_bundle()
SETUP = Setup(readers=1)
LOCK = ".glassrt-batch"
BESIDE = {LOCK, JOURNAL, SUMMARY}


class Unseen:
    """A `Watcher` that tells nobody; `begin` may be replaced."""

    def begin(self, order: Order) -> None: ...

    def advance(self, order: Order, done: int, total: int) -> None: ...

    def end(self, order: Order, outcome: Outcome | None, failure: Failed | Lost | None, again: bool) -> None: ...


class Ran(NamedTuple):
    """What a batch came to, with every slide's outcome by its id."""

    outcomes: dict[str, Outcome]
    finished: bool
    plan: Plan


def run_batch(batch: Batch, open_executor: Callable[[], Executor], watcher: Unseen) -> Ran:
    """Run a batch to its end."""
    ended = batch.run(open_executor, watcher, lambda plan: None)
    outcomes = {row.id: batch.outcome(row) for row in ended.rows if row.state in ("done", "failed")}
    return Ran(outcomes, ended.finished, ended.plan)


def run_here(paths: Sequence[Path | str], out: Path, watcher: Unseen | None = None, **options: Any) -> Ran:
    """A batch in this process."""
    entries = list_entries([str(path) for path in paths], None, (), read_ids(out))
    asked = Options(**{"bundle": DEFAULT_BUNDLE, "setup": SETUP, "backend": "ort", "precision": "fp32", **options})
    batch = Batch(entries, out, asked)
    return run_batch(batch, lambda: Here(asked.setup, lambda told: None), watcher or Unseen())


def score_here(paths: Sequence[Path], out: Path, watcher: Unseen | None = None, **options: Any) -> list[Outcome]:
    """What came of each slide of a batch in this process, in the order that they were named."""
    ended = run_here(paths, out, watcher, **options)
    by_path = {str(outcome.path): outcome for outcome in ended.outcomes.values()}
    return [by_path[str(path)] for path in paths]


def make_slide(path: Path, grey: int = 240) -> Path:
    """A slide of plain glass, which is scored at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"tile": (64, 64), "photometric": "rgb", "resolution": (16129, 16129), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, np.full((128, 128, 3), grey, np.uint8), **options)  # type: ignore[arg-type]
    return path


def read_rows(out: Path) -> list[str]:
    with open(out / "summary.csv", newline="", encoding="utf-8") as file:
        return [f"{row['slide']} {'failed' if row['status'] == 'failed' else 'done'}" for row in csv.DictReader(file)]


def read_all(folder: Path) -> dict[str, bytes]:
    """The files in a folder; of journals what they say, and not the lock, which says who had it last."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK]
    told = {str(path): path.read_bytes() for path in files if path.name != JOURNAL}
    for path in (path for path in files if path.name == JOURNAL):
        with closing(Journal(path, read_only=True)) as journal:
            told[str(path)] = repr(journal.rows()).encode()
    return told


def list_slides(out: Path) -> list[str]:
    """The folders of results, where nothing stands beside them but what belongs to every batch."""
    names = {path.name for path in out.iterdir()}
    assert names >= BESIDE, names
    return sorted(names - BESIDE)
