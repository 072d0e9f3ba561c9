"""`glassrt bench embed`."""

from pathlib import Path
from typing import Annotated

import typer

from glassrt.benchmarks.commands.rows import print_rows
from glassrt.engine.commands.progress import show_status
from glassrt.training.commands.options import missing_packages


def embed_command(
    slide: Annotated[Path, typer.Argument(help="Slide that OpenSlide opens.", show_default=False)],
    encoder: Annotated[str, typer.Option(help="Encoder, as for `glassrt export-encoder`.")] = "efficientnet_lite0",
    weights: Annotated[str, typer.Option(help="File of its weights, or imagenet.")] = "imagenet",
    window: Annotated[int, typer.Option(min=32, max=4096, help="Pixels along a tile's side.")] = 224,
    rounds: Annotated[int, typer.Option(min=1, help="Times that the slide is embedded.")] = 5,
    loops: Annotated[bool, typer.Option("--loops/--no-loops", help="Time torch's loops too.")] = True,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
) -> None:
    """Time the features of a slide beside the loop of torch and OpenSlide that others run, and the encoder alone."""
    with missing_packages("cpu,export"):
        from glassrt.benchmarks.embedding import measure_embedding

    with show_status("embed", "exporting") as progress:
        report = measure_embedding(slide, encoder, weights, window, rounds, json, progress, loops)
    keys = ("name", "tiles_per_s", "lowest_cosine")
    print_rows(f"{report['tiles']} tiles", [{key: row[key] for key in keys} for row in report["rows"]])
    beside = f", {report['times_fastest_loop']:.2f} times the fastest loop" if loops else ""
    print(f"GlassRT: {report['share_of_encoder']:.1%} of the encoder alone{beside}")
