"""`glassrt status` and `glassrt report`."""

import json as plain_json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from glassrt.engine.commands.scored import SLIDES_FAILED
from glassrt.engine.commands.terminal import PlainTable, printable
from glassrt.engine.errors import UsageError
from glassrt.engine.production.claim import is_claimed
from glassrt.engine.production.journal import Row, read_journals
from glassrt.engine.production.report import write_report
from glassrt.engine.production.totals import write_totals

UNFINISHED = 4  # exit code of a batch with slides left
EVERY_S = 2.0
MOST_SHOWN = 20
STATES = ("done", "failed", "running", "waiting")
FOLDER = typer.Argument(help="Output folder of `glassrt score`.", show_default=False)


def status_command(
    out: Annotated[Path, FOLDER],
    watch: Annotated[bool, typer.Option("--watch", help="Show it until the batch ends.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON, with every slide.")] = False,
) -> None:
    """Show how far a batch is, and what failed.

    Exit code 0: all slides are done; 3: all were tried, some failed; 4: some are left, whether a batch runs or not.
    """
    rows, runs = look(out)
    if json:
        print(plain_json.dumps(tell(out, rows, runs), ensure_ascii=False, indent=2))
    elif watch:
        with Live(Group(*draw(out, rows, runs)), console=Console(), auto_refresh=False) as live:
            while runs:
                time.sleep(EVERY_S)
                rows, runs = look(out)
                live.update(Group(*draw(out, rows, runs)), refresh=True)
    else:
        head, *more = draw(out, rows, runs)
        Console().print(head, soft_wrap=True)
        Console().print(*more)
    states = {row.state for row in rows}
    raise typer.Exit(UNFINISHED if states & {"waiting", "running"} else SLIDES_FAILED if "failed" in states else 0)


def report_command(out: Annotated[Path, FOLDER]) -> None:
    """Write report.html anew: totals, failures, timings and pictures; after a batch in parts, summary.csv of all."""
    rows, _ = look(out)
    if written := write_totals(out, rows):
        print(printable(str(written), keep="\n\t"))
    print(printable(str(write_report(out, rows)), keep="\n\t"))


def look(out: Path) -> tuple[list[Row], bool]:
    """The rows of all journals in a folder, and whether a batch runs there. Raises UsageError for another folder."""
    rows = read_journals(out)
    if not rows:
        raise UsageError(f"{out}: no journal of a batch here; name the --out of `glassrt score`")
    return rows, is_claimed(out)


def tell(out: Path, rows: Sequence[Row], runs: bool) -> dict[str, Any]:
    """All that is known, as plain values."""
    counts: Counter[str] = Counter(row.state for row in rows)
    slides = [row._asdict() | {"seconds": dict(row.seconds), "columns": dict(row.columns)} for row in rows]
    for each in slides:
        del each["place"]
    return {"out": str(out), "runs": runs, **{state: counts[state] for state in STATES}, "slides": slides}


def draw(out: Path, rows: Sequence[Row], runs: bool) -> list[Any]:
    """How many slides are in each state, what is scored at the moment, and what failed."""
    counts: Counter[str] = Counter(row.state for row in rows)
    told = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    state = "runs" if runs else "has ended" if not counts["waiting"] + counts["running"] else "was stopped"
    parts: list[Any] = [Text(printable(f"{out}: {told}; the batch {state}"))]
    now = time.time()
    table = PlainTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("slide", "state", "attempt", "minutes", "error"):
        table.add_column(heading, overflow="fold")
    shown = [row for row in rows if row.state == "running" and runs] + [row for row in rows if row.error]
    for row in shown[:MOST_SHOWN]:
        minutes = f"{((row.ended or now) - row.begun) / 60:.1f}" if row.begun else ""
        table.add_row(row.id, row.state, str(row.attempts), minutes, row.error)
    if shown:
        parts.append(table)
    if len(shown) > MOST_SHOWN:
        parts.append(Text(f"and {len(shown) - MOST_SHOWN} more: --json tells of all"))
    return parts
