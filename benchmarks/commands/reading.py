"""`glassrt bench reading`."""

from pathlib import Path
from typing import Annotated

import typer

from glassrt.benchmarks.commands.rows import print_rows
from glassrt.engine.commands.progress import show_status


def reading_command(
    slide: Annotated[Path, typer.Argument(help="Slide to read.", show_default=False)],
    rounds: Annotated[int, typer.Option(min=1, help="In which all readers take turns.")] = 7,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
) -> None:
    """Windows of a slide through GlassRT, OpenSlide, tiffslide, pyvips and cuCIM, as far as they are installed."""
    from glassrt.benchmarks.machine import write_report
    from glassrt.benchmarks.reading import measure_reading

    with show_status("bench reading") as progress:
        report = measure_reading(slide, rounds, progress=progress)
    rows = [{"": row["name"], "MPix/s": f"{row['mpix_per_s']:.0f}"} for row in report["rows"]]
    print_rows(f"{report['slide']}: {report['windows']} windows of {report['window']} px", rows)
    write_report(json, report)
