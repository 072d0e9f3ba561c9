"""`glassrt train da-refinenet`."""

from pathlib import Path
from typing import Annotated

import typer

from glassrt.training.commands.options import CONFIGS, DATA, RUN, bars, missing_packages, tell_next


def da_refinenet_command(
    data: Annotated[Path, DATA],
    out: Annotated[Path, RUN],
    config: Annotated[Path, typer.Option(help="TOML file.", show_default="da_refinenet_compact.toml")] = CONFIGS
    / "da_refinenet_compact.toml",
) -> None:
    """Train a network that segments a fine window in sight of its surroundings (DA-RefineNet)."""
    with missing_packages():
        from glassrt.training.config import load_config
        from glassrt.training.methods import da_refinenet
        from glassrt.training.run import keep_config
        from glassrt.training.world import join_world
    settings = load_config(config, da_refinenet.DaRefineNetConfig)
    with join_world() as world, bars(world.leads) as stage:
        slides = da_refinenet.find_slides(settings, data)
        da_refinenet.check(settings, world)
        keep_config(settings, out, world)
        da_refinenet.train(settings, slides, out, world, stage("da-refinenet", settings.steps))
    if world.leads:
        tell_next(out)
