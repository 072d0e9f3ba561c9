"""`glassrt bench tissue`."""

from pathlib import Path
from typing import Annotated

import typer

from glassrt.benchmarks.commands.rows import print_rows
from glassrt.engine.commands.progress import show_status


def tissue_command(
    data: Annotated[Path, typer.Option(help="Folder of the unpacked data sets.", show_default=False)],
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
) -> None:
    """Share of tissue missed and of glass and ink taken, on real pictures and on made stains of them."""
    from glassrt.benchmarks.machine import write_report
    from glassrt.benchmarks.tissue import measure_tissue

    with show_status("bench tissue") as progress:
        report = measure_tissue(data, progress)
    for title in ("stains", "marks"):
        rows = [
            {
                "": f"{row['stain']} {row['pictures of']}".strip(),
                "pictures": row["pictures"],
                "missed %": shown(row["tissue_missed_percent"]),
                "taken %": shown(row["nothing_taken_percent"]),
                "unlike H&E %": shown(row["unlike_percent"]),
            }
            for row in report[title]
        ]
        print_rows(title, rows)
    write_report(json, report)


def shown(percent: float | None) -> str:
    """A figure of a table, or a dash for none."""
    return "-" if percent is None else f"{percent:.2f}"
