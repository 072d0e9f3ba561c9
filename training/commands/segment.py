"""`glassrt train segment`."""

from pathlib import Path
from typing import Annotated

import typer

from glassrt.training.commands.options import CONFIGS, DATA, RUN, bars, missing_packages, tell_next


def segment_command(
    data: Annotated[Path, DATA],
    out: Annotated[Path, RUN],
    config: Annotated[Path, typer.Option(help="TOML file.", show_default="segment.toml")] = CONFIGS / "segment.toml",
    masks: Annotated[
        Path | None, typer.Option(help="Folder of PNG masks to learn from.", show_default="the set's own")
    ] = None,
) -> None:
    """Train a segmentation network on masks."""
    with missing_packages():
        from glassrt.training.config import load_config
        from glassrt.training.methods import segment
        from glassrt.training.run import keep_config
        from glassrt.training.world import join_world
    settings = load_config(config, segment.SegmentConfig)
    with join_world() as world, bars(world.leads) as stage:
        samples = segment.load_samples(data, settings.split, masks, settings.mpp, settings.contour_um)
        keep_config(settings, out, world)
        labels = "masks" if masks is None else "given masks"
        segment.train(settings, samples, out, world, stage("segment", settings.steps), labels=labels)
    if world.leads:
        tell_next(out)
