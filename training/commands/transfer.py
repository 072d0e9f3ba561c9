"""`glassrt train transfer`."""

from pathlib import Path
from typing import Annotated

import typer
from msgspec import UNSET

from glassrt.engine.errors import UsageError
from glassrt.training.commands.options import CONFIGS, DATA, RUN, bars, missing_packages, tell_next


def transfer_command(
    data: Annotated[Path, DATA],
    out: Annotated[Path, RUN],
    config: Annotated[Path, typer.Option(help="TOML file.", show_default="transfer_compact.toml")] = CONFIGS
    / "transfer_compact.toml",
    natural: Annotated[
        Path | None, typer.Option(help="Folder of PASCAL VOC 2012 to pre-train on.", show_default="that of --data")
    ] = None,
) -> None:
    """Train a classifier of patches that starts from natural images' labels, other weights, or none (transfer)."""
    with missing_packages():
        from glassrt.training.config import load_config
        from glassrt.training.methods import transfer
        from glassrt.training.run import keep_config
        from glassrt.training.world import join_world
    settings = load_config(config, transfer.TransferConfig)
    with join_world() as world, bars(world.leads) as stage:
        if natural is not None and settings.pretraining is UNSET:
            raise UsageError(f"--natural: {config} has no [pretraining], which is all that VOC is for")
        natural = natural or data
        transfer.check(settings, natural, world)
        patches = transfer.load_patches(settings, data)
        keep_config(settings, out, world)
        transfer.train(settings, patches, natural, out, world, stage)
    if world.leads:
        tell_next(out)
