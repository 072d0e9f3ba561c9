"""`glassrt bench slide`."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from glassrt.benchmarks.commands.rows import print_rows
from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE, open_bundle
from glassrt.engine.commands.options import BACKEND, PRECISION, parse_scales
from glassrt.engine.commands.progress import show_status
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.table import MOST_WINDOWS
from glassrt.engine.tasks.segment import DEFAULT_READERS, MOST_READERS


def slide_command(
    slide: Annotated[Path, typer.Argument(help="Slide to score.", show_default=False)],
    bundle: Annotated[Path, typer.Argument(help="Bundle.", show_default="the one shipped")] = DEFAULT_BUNDLE,
    backend: Annotated[str, BACKEND] = "auto",
    precision: Annotated[str, PRECISION] = "auto",
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_WINDOWS, help="Windows per network call.", show_default="what suits the runtime"),
    ] = None,
    scales: Annotated[str | None, typer.Option(help="Scales, e.g. 0.75,1,1.5.", show_default="the bundle's")] = None,
    readers: Annotated[int, typer.Option(min=1, max=MOST_READERS, help="Threads that read and cut.")] = DEFAULT_READERS,
    repeats: Annotated[int, typer.Option(min=1, help="Counted runs.")] = 7,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Also with other threads and readers, and on larger slides made of it.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
) -> None:
    """Time `score` end to end, every part of it alone, and how close the whole comes to what its parts allow."""
    from glassrt.benchmarks import slides
    from glassrt.benchmarks.machine import write_report

    opened = open_bundle(bundle).replace(parse_scales(scales))
    with show_status("bench slide") as progress:
        with closing(open_backend(opened, backend, batch, precision=precision, throughput=True)) as runtime:
            report = slides.measure_slide(slide, opened, runtime, repeats, readers, progress)
        if scaling:
            report["rows"] += slides.measure_scaling(slide, opened, runtime, repeats, progress)
    print_rows(f"{report['slide']}, {report['backend']}", [*slides.each_row(report)])
    around = f", {report['contexts']} surroundings through another" if "contexts" in report else ""
    Console().print(
        f"{report['windows']} windows, {report['windows_per_s']:.1f} a second, {report['mm2_per_s']:.2f} mm2/s, "
        f"{report['mpix_per_s']:.1f} MPix/s through the network{around}\n"
        f"{report['share_of_bound']:.0%} of the bound {report['bound_s']:.3f} s from the parts; between mask and files "
        f"{report['bounded_by']} bounds; {report['times_network']:.2f} times the network alone; the parts one "
        f"after the other would take {report['overlap']:.2f} times as long"
    )
    write_report(json, report)
