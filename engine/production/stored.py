"""Many files of features: each on its own, one table for all."""

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.files import output_errors, prepare_folder, replace_file
from glassrt.engine.production.batch import attempt, check_names
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.tasks.stored import StoredResult, find_head, score_features

BAGS = "bags.csv"


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
    find_head(bundle)
    check_names(paths)
    prepare_folder(out)
    outcomes = []
    for path in paths:
        found = attempt(path, partial(score_features, path, bundle, out / path.stem, backend))
        outcomes.append(StoredOutcome(path, None, found) if isinstance(found, str) else StoredOutcome(path, found, ""))
    write_bags(out / BAGS, outcomes, [info.name for info in find_head(bundle).classes[1:]])
    return outcomes


def write_bags(path: Path, outcomes: Sequence[StoredOutcome], names: Sequence[str]) -> None:
    """A row for each file: its tiles, its probability of each class but the background, or what went wrong."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["file", "tiles", *(f"{name}_bag_probability" for name in names), "error"])
    for outcome in outcomes:
        bag = outcome.result.bag if outcome.result else None
        figures = [f"{bag.probabilities[name]:.6g}" if bag else "" for name in names]
        table.writerow([str(outcome.path), bag.tiles if bag else "", *figures, outcome.error])
    with output_errors(path), replace_file(path) as beside:
        beside.write_text(text.getvalue(), encoding="utf-8", newline="")
