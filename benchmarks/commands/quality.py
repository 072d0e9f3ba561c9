"""`glassrt bench quality`."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from glassrt.benchmarks.commands.rows import print_machine, print_rows
from glassrt.benchmarks.machine import write_report
from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.commands.options import BACKEND, parse_precisions
from glassrt.engine.commands.progress import show_status
from glassrt.training.commands.options import DATA, missing_packages


def quality_command(
    data: Annotated[Path, DATA],
    bundles: Annotated[list[Path], typer.Argument(help="Bundles that tell glands apart.", show_default=False)],
    many: Annotated[
        list[Path] | None,
        typer.Option(help="Bundle that is run in the multi-scale test too.", show_default=False),
    ] = None,
    precision: Annotated[str, typer.Option(help="Precisions, with commas.")] = "fp32,int8",
    backend: Annotated[str, BACKEND] = "auto",
    split: Annotated[str, typer.Option(help="Part of GlaS.")] = "testA",
    plot: Annotated[Path | None, typer.Option(help="PNG to draw it to.", show_default=False)] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            help="File to write the figures to. What it holds already is kept; times of this processor are added.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """What bundles are worth on GlaS, and what the network costs a square millimetre of tissue."""
    with missing_packages("cpu,export"):
        from glassrt.benchmarks.plots import plot_quality
        from glassrt.benchmarks.quality import (
            Report,
            draw_table,
            find_points,
            lay_settings,
            measure_quality,
            read_known,
            score_glas,
        )
    opened = [open_bundle(each) for each in bundles]
    settings = lay_settings(opened, parse_precisions(precision), [open_bundle(each) for each in many or []])
    known = read_known(json) if json is not None and json.exists() else Report([], [])
    with show_status("bench quality") as progress:
        report = measure_quality(settings, split, score_glas(data, split), known, backend, progress)
    heads, *rows = draw_table(report)
    print_rows("quality and cost", [dict(zip(heads, row, strict=True)) for row in rows])
    print_machine("GMAC, ms: of a window, the network alone")
    write_report(json, msgspec.to_builtins(report))
    if plot is not None:
        plot_quality(plot, find_points(report))
