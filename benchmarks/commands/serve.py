"""`glassrt bench serve`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from glassrt.engine.commands.progress import show_status
from glassrt.engine.errors import UsageError
from glassrt.training.commands.options import missing_packages

KNOWN = ("tiles", "infer", "sessions")


def serve_command(
    slide: Annotated[Path, typer.Argument(help="Slide whose pixels are handed in.", show_default=False)],
    parts: Annotated[str, typer.Option(help="Which of them to measure, with commas.")] = ",".join(KNOWN),
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
) -> None:
    """The local server: tiles through the C client, windows through Triton's client, and what sessions leave."""
    with missing_packages("bench"):
        from glassrt.benchmarks.machine import write_report
        from glassrt.benchmarks.serving import measure_serving
    asked = [part.strip() for part in parts.split(",")]
    if unknown := [part for part in asked if part not in KNOWN]:
        raise UsageError(f"--parts {parts}: {unknown[0]!r} is none of {', '.join(KNOWN)}")
    report: dict[str, object] = {}
    with show_status("bench serve", asked[0]) as show:
        for part, figures in measure_serving(slide, asked):
            report[part] = figures
            show(f"after {part}")
            write_report(json, report)
    Console().print(report)
