"""`glassrt mosaic`."""

from pathlib import Path
from typing import Annotated

import typer

from glassrt.engine.errors import UsageError

MOST_IMAGES = 60  # of 512 pixels: OpenCV reads maps of up to 2^30 pixels


def mosaic_command(
    data: Annotated[Path, typer.Option(help="Folder of the GlaS images.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write the slides to.", show_default=False)],
    layout: Annotated[str, typer.Option(help="coherent, or random as a control.")] = "coherent",
    train: Annotated[int, typer.Option(min=1, help="Slides to train on, 27 MB each.")] = 24,
    test: Annotated[int, typer.Option(min=1, help="Slides to test on.")] = 2,
    side: Annotated[
        int,
        typer.Option(min=1, max=MOST_IMAGES, help="Images along a slide's side: for coherent ones a multiple of 4."),
    ] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Of where images lie.")] = 1,
) -> None:
    """Make slides of GlaS images whose every pixel's class is known: to train and test dual-input networks on."""
    from glassrt.training.datasets.mosaic import LAYOUTS, make_mosaics

    if layout not in LAYOUTS:
        raise UsageError(f"--layout {layout} is not known; choose {' or '.join(LAYOUTS)}")
    make_mosaics(data, out, layout, {"train": train, "test": test}, side, seed)
    print(f"{out}: {train + test} slides; train on them with `glassrt train da-refinenet --data {out} --out RUN`")
