"""`glassrt train distill-to-label`."""

from pathlib import Path
from typing import Annotated

import typer

from glassrt.training.commands.options import CONFIGS, DATA, RUN, bars, missing_packages


def distill_to_label_command(
    data: Annotated[Path, DATA],
    out: Annotated[Path, RUN],
    config: Annotated[Path, typer.Option(help="TOML file.", show_default="distill_crchisto.toml")] = CONFIGS
    / "distill_crchisto.toml",
) -> None:
    """Train networks that label instances from labels of bags: baseline, teacher and student (Distill-to-Label).

    Bags are of published pictures or, with distill_features.toml, your own slides, of which features were stored: HDF5
    files as of TRIDENT, CLAM, STAMP or `glassrt embed`, and a labels.csv (columns slide, label and, if wanted, group).
    """
    with missing_packages():
        from glassrt.training.config import load_config
        from glassrt.training.methods import distill_to_label
        from glassrt.training.run import keep_config
        from glassrt.training.world import join_world
    settings = load_config(config, distill_to_label.DistillConfig)
    with join_world() as world, bars(world.leads) as stage:
        bags = distill_to_label.load_bags(settings, data)
        distill_to_label.check(settings, world)
        keep_config(settings, out, world)
        distill_to_label.train(settings, bags.train, out, world, stage)
    if world.leads:
        last = [each for each in distill_to_label.STAGES if (out / each / "model.safetensors").exists()][-1]
        print(f"{out}: each stage's network is in its folder; export the last with `glassrt export {out / last}`")
