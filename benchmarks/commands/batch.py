"""`glassrt bench batch`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from glassrt.engine.commands.progress import show_status
from glassrt.engine.errors import UsageError
from glassrt.training.commands.options import missing_packages

KNOWN = ("faults", "kills", "rates", "gaps", "growth")


def batch_command(
    slide: Annotated[Path, typer.Argument(help="Slide whose pieces are scored.", show_default=False)],
    parts: Annotated[str, typer.Option(help="Which of them to measure, with commas.")] = ",".join(KNOWN),
    backend: Annotated[str, typer.Option(help="Runtime of all batches.")] = "auto",
    ray: Annotated[
        bool, typer.Option("--ray", help="Measure the rate on the Ray cluster that runs here, too.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
) -> None:
    """Batches of slides, broken and whole, killed and left alone: what is done, how fast, and what grows."""
    with missing_packages("bench"):
        from glassrt.benchmarks.batch import measure_part
        from glassrt.benchmarks.machine import write_report
    asked = [part.strip() for part in parts.split(",")]
    if unknown := [part for part in asked if part not in KNOWN]:
        raise UsageError(f"--parts {parts}: {unknown[0]!r} is none of {', '.join(KNOWN)}")
    report: dict[str, object] = {}
    with show_status("bench batch") as show:
        for part in asked:
            show(part)
            report[part] = measure_part(part, slide, ("--backend", backend), ray)
            write_report(json, report)
    Console().print(report)
