"""`glassrt bench memory`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from glassrt.engine.commands.progress import show_status


def memory_command(
    data: Annotated[Path, typer.Option(help="Folder of the GlaS images.", show_default=False)],
    side: Annotated[int, typer.Option(min=2048, help="Pixels along the made slide's side.")] = 30_000,
    tissue: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the slide that is tissue.")] = 0.25,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
) -> None:
    """Score a made slide of real tissue in its own process and report its peak memory."""
    from glassrt.benchmarks.machine import write_report
    from glassrt.benchmarks.memory import measure_memory

    with show_status("bench memory", f"a slide of {side} x {side} pixels"):
        report = measure_memory(data, side, tissue)
    Console().print(
        f"{side} x {side} px: peak {report['peak_rss_gb']:.2f} GB, {report['seconds']:.0f} s, "
        f"{report['windows']['run']} windows, {report['windows']['skipped']} skipped"
    )
    write_report(json, report)
