"""`glassrt bench compare`."""

from pathlib import Path
from typing import Annotated

import typer

from glassrt.benchmarks.commands.rows import print_rows

SLOWER = 1  # exit code of a comparison that found something slower


def compare_command(
    before: Annotated[Path, typer.Argument(help="Report of an earlier run.", show_default=False)],
    after: Annotated[Path, typer.Argument(help="Report of a later one.", show_default=False)],
) -> None:
    """Say what became slower beyond what a benchmark's own runs differ by. Exit code 1: something did."""
    from glassrt.benchmarks.compare import compare_reports, differing_machine

    changes = compare_reports(before, after)
    rows = [
        {
            "": change.name,
            "before": f"{change.before:.4g} {change.unit}",
            "after": f"{change.after:.4g} {change.unit}",
            "change": f"{change.percent:+.1f} %",
            "verdict": change.verdict,
        }
        for change in changes
    ]
    print_rows(f"{before.name} to {after.name}", rows)
    if differing := differing_machine(before, after):
        print(f"The machines differ in {', '.join(differing)}.")
    if any(change.verdict == "slower" for change in changes):
        raise typer.Exit(SLOWER)
