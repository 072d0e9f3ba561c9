"""`glassrt bench suspicion`."""

from pathlib import Path
from typing import Annotated

import typer

from glassrt.benchmarks.commands.rows import print_rows
from glassrt.training.commands.options import missing_packages


def suspicion_command(
    slide: Annotated[Path, typer.Argument(help="Slide to map.", show_default=False)],
    bundle: Annotated[Path, typer.Option(help="Bundle of a beta-KL run.", show_default=False)],
    rounds: Annotated[int, typer.Option(min=1, help="Times that the slide is mapped.")] = 5,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
) -> None:
    """Time what beta-KL's sampling costs: places drawn from a map of 10^8 pixels, and a slide mapped."""
    with missing_packages():
        from glassrt.benchmarks.suspicion import measure_suspicion

    report = measure_suspicion(bundle, slide, rounds, json)
    print_rows("A map of 10^8 pixels", [report["sampling"]])
    mapping = report["mapping"]
    print(f"mapping runs at {mapping['share_of_engine']:.0%} of the engine's windows/s ({mapping['windows']} windows)")
