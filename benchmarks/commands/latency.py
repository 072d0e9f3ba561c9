"""`glassrt bench latency`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from glassrt.benchmarks.commands.rows import print_machine, print_rows
from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE, open_bundle
from glassrt.engine.commands.options import parse_counts
from glassrt.engine.commands.progress import show_status
from glassrt.engine.runtimes.table import NAMES
from glassrt.training.commands.options import missing_packages


def latency_command(
    bundle: Annotated[Path, typer.Argument(help="Bundle.", show_default="the one shipped")] = DEFAULT_BUNDLE,
    backend: Annotated[str, typer.Option(help=f"{', '.join(NAMES)}, with commas, or auto.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16, int8, with commas, or auto.")] = "auto",
    batch: Annotated[str, typer.Option(help="Windows per network call, with commas.")] = "1",
    threads: Annotated[str, typer.Option(help="Threads, with commas; 0: all cores.")] = "0",
    duration: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds for each combination.")] = 10.0,
    rate: Annotated[
        float | None,
        typer.Option(min=0.01, max=1e6, help="Also: this many windows arrive a second.", show_default=False),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG to draw.", show_default=False)] = None,
) -> None:
    """Percentiles of latency, throughput, share of the machine's ceiling, start-up and memory."""
    with missing_packages("bench"):
        from glassrt.benchmarks import latency
        from glassrt.benchmarks.machine import write_report
        from glassrt.benchmarks.plots import plot_latency

        if plot is not None:
            import matplotlib  # noqa: F401  # before minutes of measuring
        import glassrt.engine.runtimes.openvino  # noqa: F401  # which counts the work and finds the ceiling
    opened = open_bundle(bundle)
    batches, counts = parse_counts("--batch", batch, 1), parse_counts("--threads", threads, 0)
    backends, precisions = ([part.strip() for part in text.split(",")] for text in (backend, precision))
    settings = latency.lay_settings(
        opened,
        backends,
        precisions,
        batches,
        counts,
        lambda reason: print(f"glassrt: left out: {reason}", file=sys.stderr),
    )
    with show_status("bench latency") as progress:
        report = latency.measure_latency(opened, settings, duration, rate, progress)
    title = f"{report['bundle']}: {report['gmac_per_window']:.2f} GMAC a window of {report['window']} px"
    for rows in latency.each_table(report):
        print_rows(title, rows)
        title = ""
    print_machine("p: percentiles of calls, ms; ceiling: of what this machine reaches at most")
    write_report(json, report)
    if plot is not None:
        plot_latency(plot, report)
