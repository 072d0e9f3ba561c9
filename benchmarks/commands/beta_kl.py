"""`glassrt bench beta-kl`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from glassrt.engine.commands.terminal import PlainTable
from glassrt.training.commands.options import CONFIGS, bars, missing_packages


def beta_kl_command(
    data: Annotated[Path, typer.Option(help="Folder of the GlaS images.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of all runs; a stopped benchmark goes on.", show_default=False)],
    json: Annotated[Path, typer.Option(help="File to write the scores to.", show_default=False)],
    config: Annotated[Path, typer.Option(help="TOML file.", show_default="beta_kl_compact.toml")] = CONFIGS
    / "beta_kl_compact.toml",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every row.")] = 5,
) -> None:
    """Train beta-KL with every divergence, drawing patches alike or where disease is suspected; hours on a CPU."""
    with missing_packages():
        from glassrt.benchmarks.beta_kl import draw_table, measure_beta_kl
        from glassrt.training.config import load_config
        from glassrt.training.methods.beta_kl import BetaKlConfig
        from glassrt.training.world import join_world

    settings = load_config(config, BetaKlConfig)
    with join_world() as world, bars(world.leads) as stage:
        report = measure_beta_kl(settings, data, out, seeds, world, stage, json)
    if not world.leads:
        return
    heads, *rows = draw_table(report)
    table = PlainTable("Weak mosaic test slides, percent")
    for name in heads:
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
