"""`glassrt suspects`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from glassrt.engine.commands.terminal import printable
from glassrt.engine.errors import UsageError
from glassrt.engine.files import replace_folder
from glassrt.engine.results.hard_benign import HARD_BENIGN, write_hard_benign
from glassrt.engine.results.labels import read_labels
from glassrt.engine.results.scored import read_scored
from glassrt.engine.results.suspects import rank_suspects


def suspects_command(
    results: Annotated[
        Path, typer.Argument(help="Folder of results, the --out of glassrt score.", show_default=False, readable=False)
    ],
    labels: Annotated[
        Path,
        typer.Option(
            help="CSV with the columns slide and label (benign or malign).", show_default=False, readable=False
        ),
    ],
    out: Annotated[Path, typer.Option(help=f"Folder for {HARD_BENIGN}, outlines, thumbnails.", show_default=False)],
    most: Annotated[int, typer.Option(min=1, help="Regions to list, of all slides together.")] = 100,
) -> None:
    """List the regions of benign slides that look most malign: what a lab should look at next.

    Reads finished results; slides are opened for thumbnails alone.
    """
    benign = sorted(stem for stem, malign in read_labels(labels).items() if not malign)
    scored = list(read_scored(results, benign))
    if not scored:
        raise UsageError(f"{results} holds no result of a slide that {labels} labels benign")
    with replace_folder(out, HARD_BENIGN) as folder:
        suspects = rank_suspects(scored, most, folder)
        notes = list(write_hard_benign(folder, suspects))
    if missing := len(benign) - len(scored):
        notes.append(f"{missing} of the {len(benign)} slides labelled benign have no result in {results}")
    for note in notes:
        print(f"glassrt: warning: {printable(note)}", file=sys.stderr)
    print(printable(f"{len(suspects)} regions of {len(scored)} slides: {out / HARD_BENIGN}", keep="\n\t"))
