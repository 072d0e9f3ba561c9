"""`glassrt train distil`."""

from pathlib import Path
from typing import Annotated

import typer

from glassrt.engine.bundles.parts import COARSEST_MPP, FINEST_MPP
from glassrt.engine.commands.options import parse_scales
from glassrt.training.commands.options import CONFIGS, RUN, bars, missing_packages, tell_next


def distil_command(
    teacher: Annotated[
        list[Path], typer.Option(help="Bundle to learn from; several are averaged.", show_default=False)
    ],
    out: Annotated[Path, RUN],
    data: Annotated[
        Path | None, typer.Option(help="Folder of a labelled set (GlaS) to learn on.", show_default=False)
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of images to learn on.", show_default=False)] = None,
    mpp: Annotated[
        float | None,
        typer.Option(
            min=FINEST_MPP,
            max=COARSEST_MPP,
            help="Micrometres per pixel of the images, or without these of the slides.",
            show_default="as they say",
        ),
    ] = None,
    slides: Annotated[Path | None, typer.Option(help="Folder of slides to learn on.", show_default=False)] = None,
    config: Annotated[Path, typer.Option(help="TOML file.", show_default="distil.toml")] = CONFIGS / "distil.toml",
    scales: Annotated[
        str | None, typer.Option(help="Scales that teachers run at.", show_default="each its own")
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="Average with mirrored windows.", show_default="each its own"),
    ] = None,
) -> None:
    """Train a fast network on what slower ones say of images and slides, which need no labels."""
    with missing_packages("cpu,train"):
        from glassrt.training.config import load_config
        from glassrt.training.methods import distil
        from glassrt.training.teachers import open_teachers
        from glassrt.training.world import join_world
    settings = load_config(config, distil.DistilConfig)
    teachers = open_teachers(teacher, parse_scales(scales), flip)
    with join_world() as world, bars(world.leads) as stage:
        material = distil.gather(settings, teachers, data, images, mpp, slides)
        distil.train(settings, teachers, material, out, world, stage)
    if world.leads:
        tell_next(out)
