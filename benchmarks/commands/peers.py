"""`glassrt bench peers`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from glassrt.benchmarks.commands.rows import print_machine, print_rows
from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE, open_bundle
from glassrt.engine.commands.options import parse_scales
from glassrt.engine.commands.progress import show_status
from glassrt.training.commands.options import missing_packages

DIFFERENT = 1  # exit code of a comparison that left out who computes something else


def peers_command(
    slide: Annotated[Path, typer.Argument(help="Slide to take pixels from.", show_default=False)],
    bundle: Annotated[Path, typer.Argument(help="Bundle.", show_default="the one shipped")] = DEFAULT_BUNDLE,
    scales: Annotated[str | None, typer.Option(help="Scales, e.g. 0.75,1,1.5.", show_default="the bundle's")] = None,
    flip: Annotated[bool | None, typer.Option("--flip/--no-flip", help="Mirrored windows too.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Bundle that the others run in its place.", show_default="the same")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="In which all take turns.")] = 7,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
) -> None:
    """The same network, pixels and windows through GlassRT, MONAI, TIAToolbox and plain torch.

    With --against they run another network than GlassRT, on the same pixels: what a faster one is worth.

    Exit code 1: one of them computes something else and was left out.
    """
    with missing_packages("peers"):
        from glassrt.benchmarks.peers import measure_peers
    from glassrt.benchmarks.machine import write_report

    with show_status("bench peers") as progress:
        opened, other = (
            open_bundle(each).replace(parse_scales(scales), flip) if each else None for each in (bundle, against)
        )
        assert opened is not None
        report = measure_peers(slide, opened, rounds, progress, other)
    height, width = report["pixels"]
    rows = [
        {
            "": each["name"],
            "s": f"{each['seconds']:.2f}",
            "x fp32": f"{each['times_glassrt_fp32']:.2f}",
            "x best": f"{each['times_fastest']:.2f}",
            "flips": f"{each['other_class']:.2%}",
        }
        for each in report["rows"]
    ]
    print_rows(f"{width} x {height} px of {report['slide']}, {report['threads']} threads", rows)
    print_machine("s: seconds; x: times as long as another takes; flips: pixels of another class")
    for reason in report["left_out"]:
        print(f"glassrt: left out: {reason}", file=sys.stderr)
    write_report(json, report)
    if report["left_out"]:
        raise typer.Exit(DIFFERENT)
