"""What `glassrt score` shows in the end."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.kinds.mil import Mil
from glassrt.engine.commands.terminal import PlainTable, printable
from glassrt.engine.production.journal import Row
from glassrt.engine.production.stored import BAGS, score_files
from glassrt.engine.results.summary import SUMMARY, Outcome
from glassrt.engine.runtimes.protocol import Backend

SLIDES_FAILED = 3  # exit code of a batch in which some slides could not be scored
MOST_SHOWN = 50  # slides that are listed: of more the summary tells


def score_stored(paths: list[Path], bundle: Bundle, runtime: Backend, out: Path, console: Console) -> None:
    """Score files of features, and show what each is as a bag."""
    outcomes = score_files(paths, bundle, runtime, out)
    table = PlainTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("file", overflow="fold")
    found = [info.name for info in bundle.segmentation.classes[1:]]
    for heading in ("tiles", *(f"bag {name}" for name in found), "seconds"):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        row = [outcome.path.name]
        if outcome.result is not None:
            bag = outcome.result.bag
            row += [str(bag.tiles), *(f"{bag.probabilities[name]:.3f}" for name in found)]
            row.append(f"{outcome.result.seconds['total']:.2f}")
        table.add_row(*row, *([] if outcome.result else ["failed"]))
    console.print(table)
    for outcome in outcomes:
        if outcome.result is None:
            print(f"glassrt: {printable(outcome.error)}", file=sys.stderr)
    print(printable(f"Results: {out / BAGS}", keep="\n\t"))
    if any(outcome.result is None for outcome in outcomes):
        raise typer.Exit(SLIDES_FAILED)


def print_outcomes(outcomes: Mapping[str, Outcome], rows: Sequence[Row], out: Path) -> None:
    """What went wrong, of all rows, and what to be wary of, on standard error; and where the results lie."""
    for row in rows:
        if row.state == "failed":
            print(f"glassrt: {printable(row.error)}", file=sys.stderr)
    for outcome in outcomes.values():
        for warning in outcome.result.warnings if outcome.result else ():
            print(f"glassrt: warning: {printable(f'{outcome.path}: {warning}')}", file=sys.stderr)
    print(printable(f"Results: {out / SUMMARY}", keep="\n\t"))
    scored = {id: outcome.result for id, outcome in outcomes.items() if outcome.result is not None}
    for id, result in scored.items():
        folder = printable(str(out / id), keep="\n\t")
        more = "  attention.png  top_tiles.png  features.h5" if result.bag else ""
        more += "  tiles.csv" if result.tiles else ""
        print(f"  {folder}/  overlay.png  map.ome.tif  regions.geojson  result.json{more}")
    if len(rows) > MOST_SHOWN:
        print(f"  and {len(rows) - MOST_SHOWN} slides more")


def summary_table(outcomes: list[Outcome], bundle: Bundle) -> Table:
    """One row a slide: what it is as a bag, its score (the 99th percentile) if the bundle asks for them; tissue; area,
    share of the tissue and regions of each class but the background; the work.
    """
    table = PlainTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("slide", overflow="fold")
    told = bundle.segmentation
    found = [info.name for info in told.classes[1:]]
    bags = found if isinstance(told, Mil) else []
    table.add_column("status")
    for name in bags:
        table.add_column(f"bag {name}", justify="right")
    if told.slide_scores:
        table.add_column(f"{told.slide_scores.of} log-odds", justify="right")
    for heading in ("tissue mm²", *(text for name in found for text in (f"{name} mm²", "share", "regions"))):
        table.add_column(heading, justify="right")
    table.add_column("windows", justify="right")
    table.add_column("seconds", justify="right")
    for outcome in outcomes:
        row = [Path(outcome.path).name, outcome.status]
        if outcome.result is not None:
            row += [f"{outcome.result.bag.probabilities[name]:.3f}" if outcome.result.bag else "" for name in bags]
            if told.slide_scores:
                scores = outcome.result.slide_scores
                row.append(f"{scores.percentile_99_log_odds:.2f}" if scores else "")
            row.append(f"{outcome.result.tissue_mm2:.3f}")
            for name in found:
                figures = outcome.result.classes[name]
                row += [f"{figures.area_mm2:.3f}", f"{figures.tissue_fraction:.1%}", f"{figures.regions}"]
            row += [str(outcome.result.windows["run"]), f"{outcome.result.seconds['total']:.2f}"]
        table.add_row(*row)
    return table
