"""`glassrt mosaic`."""

from pathlib import Path
from typing import Annotated

import typer

from glassrt.engine.errors import UsageError

MOST_IMAGES = 60  # of 512 pixels: OpenCV reads maps of up to 2^30 pixels


def mosaic_command(
    data: Annotated[Path, typer.Option(help="Folder of the GlaS images.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write the slides to.", show_default=False)],
    layout: Annotated[
        str,
        typer.Option(
            help="coherent: neighbours share a grade; random, its control; weak: slides are benign or malign as a "
            "whole; weak-small: in small lesions; weak-disjoint, its control."
        ),
    ] = "coherent",
    train: Annotated[int, typer.Option(min=1, help="Slides to train on, 27 MB each (weak ones 10).")] = 24,
    test: Annotated[
        int | None, typer.Option(min=1, help="Slides to test on.", show_default="2, or 48 weak ones")
    ] = None,
    side: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_IMAGES,
            help="Images along a slide's side: for coherent ones a multiple of 4.",
            show_default="12, or 8 of weak ones",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of where images lie.")] = 1,
) -> None:
    """Make slides of GlaS images whose every pixel's class is known.

    To train and test dual-input networks on, or weak ones for what learns from slides' labels.
    """
    from glassrt.training.datasets import mosaic, weak_mosaic

    if layout not in (*mosaic.LAYOUTS, *weak_mosaic.LAYOUTS):
        known = ", ".join((*mosaic.LAYOUTS, *weak_mosaic.LAYOUTS))
        raise UsageError(f"--layout {layout} is not known; choose one of {known}")
    weak = layout in weak_mosaic.LAYOUTS
    test, side = test or (48 if weak else 2), side or (8 if weak else 12)
    make = weak_mosaic.make_weak_mosaics if weak else mosaic.make_mosaics
    make(data, out, layout, {"train": train, "test": test}, side, seed)
    method = "beta-kl" if weak else "da-refinenet"
    print(f"{out}: {train + test} slides; train on them with `glassrt train {method} --data {out} --out RUN`")
