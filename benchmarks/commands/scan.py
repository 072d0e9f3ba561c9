"""`glassrt bench scan`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE, open_bundle
from glassrt.engine.commands.options import BACKEND, PRECISION
from glassrt.engine.commands.progress import show_status
from glassrt.engine.runtimes.open import open_backend
from glassrt.training.commands.options import missing_packages


def scan_command(
    slide: Annotated[Path, typer.Argument(help="Slide that is repeated to the size of a scan.", show_default=False)],
    bundle: Annotated[Path, typer.Option(help="Bundle to score with.", show_default="shipped")] = DEFAULT_BUNDLE,
    backend: Annotated[str, BACKEND] = "auto",
    precision: Annotated[str, PRECISION] = "auto",
    load: Annotated[float, typer.Option(min=0.05, max=1.0, help="Share of the time that scoring takes.")] = 0.6,
    side: Annotated[float, typer.Option(min=1.0, help="Millimetres of the slide's sides.")] = 15.0,
    long: Annotated[float, typer.Option(min=0.0, help="Millimetres of a longer slide, 0 for none.")] = 60.0,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG of lags over time.", show_default=False)] = None,
) -> None:
    """A slide that is handed in while it is scanned: how far maps are behind, and what that takes."""
    with missing_packages("bench"):
        from glassrt.benchmarks.machine import write_report
        from glassrt.benchmarks.plots import plot_scan
        from glassrt.benchmarks.scan import measure_scan
    opened = open_bundle(bundle)
    runtime = open_backend(opened, backend, precision=precision, throughput=True)
    report: dict[str, object] = {"runtime": f"{runtime.name} {runtime.precision}", "side_mm": side}
    with show_status("bench scan") as show:
        show("as fast as it is taken")
        for name, scanned in measure_scan(slide, opened, runtime, load, side, long):
            report[name] = scanned
            show(f"after {name}")
            write_report(json, report)
    if plot is not None:
        plot_scan(plot, report)
    for figures in report.values():
        if isinstance(figures, dict):
            del figures["lags_ms"], figures["times_s"]
    Console().print(report)
