"""`glassrt embed`."""

import contextlib
import itertools
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.commands.interrupt import Interrupt
from glassrt.engine.commands.options import BACKEND, PRECISION
from glassrt.engine.commands.progress import show_progress
from glassrt.engine.commands.scored import SLIDES_FAILED
from glassrt.engine.commands.terminal import PlainTable, printable
from glassrt.engine.production.embedding import EmbedJob, EmbedOutcome, embed_batch
from glassrt.engine.results.features import Layout
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.table import MOST_WINDOWS
from glassrt.engine.tasks.segment import DEFAULT_READERS, MOST_READERS
from glassrt.engine.tasks.tiles import find_encoder


def embed_command(
    slides: Annotated[list[Path], typer.Argument(help="Slides or images.", show_default=False, readable=False)],
    bundle: Annotated[Path, typer.Option(help="Bundle of the kind encoder or mil.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the files of features.", show_default=False)],
    layout: Annotated[Layout, typer.Option(help="The tool that is to read the files.")] = "trident",
    half: Annotated[bool, typer.Option("--half", help="Store float16.")] = False,
    backend: Annotated[str, BACKEND] = "auto",
    precision: Annotated[str, PRECISION] = "auto",
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per slide pixel.", show_default="what the file says")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_WINDOWS, help="Tiles per network call.", show_default="what suits the runtime"),
    ] = None,
    readers: Annotated[int, typer.Option(min=1, max=MOST_READERS, help="Threads that read and cut.")] = DEFAULT_READERS,
    tissue: Annotated[str, typer.Option(help="auto, all, a mask or a folder of masks, as for score.")] = "auto",
) -> None:
    """Write the features of slides' tiles, in the layout of the tool that reads them.

    Exit code 3: some slides could not be embedded; 2: nothing could be done.
    """
    opened = open_bundle(bundle)
    find_encoder(opened)
    runtime = open_backend(opened, backend, batch, precision=precision, throughput=True)
    job = EmbedJob(opened, runtime, out, layout, half, mpp, readers, tissue)
    numbers = (f"[{number}/{len(slides)}] " if len(slides) > 1 else "" for number in itertools.count(1))
    with contextlib.closing(runtime), show_progress("tiles", batch=True) as shown, Interrupt() as interrupt:
        outcomes = embed_batch(slides, job, lambda path: interrupt.guard(shown.start(next(numbers) + path.name)))
    Console().print(embed_table(outcomes))
    for outcome in outcomes:
        if outcome.embedded is None:
            print(f"glassrt: {printable(outcome.error)}", file=sys.stderr)
            continue
        for warning in outcome.embedded.warnings:
            print(f"glassrt: warning: {printable(f'{outcome.path}: {warning}')}", file=sys.stderr)
    print(printable(f"Features of {opened.manifest.name} in {runtime.precision}: {out}", keep="\n\t"))
    if any(outcome.embedded is None for outcome in outcomes):
        raise typer.Exit(SLIDES_FAILED)


def embed_table(outcomes: list[EmbedOutcome]) -> Table:
    """One row a slide: its tiles and how fast they were embedded, from file to file."""
    table = PlainTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("slide", overflow="fold")
    for heading in ("tiles", "seconds", "tiles/s"):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        tiles = outcome.embedded.tiles if outcome.embedded else 0
        figures = (str(tiles), f"{outcome.seconds:.2f}", f"{tiles / outcome.seconds:.1f}") if tiles else ("failed",)
        table.add_row(outcome.path.name, *figures)
    return table
