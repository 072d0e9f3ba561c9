"""`glassrt train oeem`."""

from pathlib import Path
from typing import Annotated

import typer

from glassrt.training.commands.options import CONFIGS, DATA, RUN, bars, missing_packages, tell_next


def oeem_command(
    data: Annotated[Path, DATA],
    out: Annotated[Path, RUN],
    config: Annotated[Path, typer.Option(help="TOML file.", show_default="oeem_compact.toml")] = CONFIGS
    / "oeem_compact.toml",
) -> None:
    """Train a segmentation network on patch labels: classifier, pseudo-masks, segmentation (OEEM)."""
    with missing_packages():
        from glassrt.training.config import load_config
        from glassrt.training.methods import oeem
        from glassrt.training.world import join_world
    settings = load_config(config, oeem.OeemConfig)
    with join_world() as world, bars(world.leads) as stage:
        oeem.train(settings, data, out, world, stage)
    if world.leads:
        tell_next(out)
