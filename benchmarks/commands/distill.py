"""`glassrt bench distill`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from glassrt.engine.commands.terminal import PlainTable
from glassrt.training.commands.options import CONFIGS, bars, missing_packages


def distill_command(
    data: Annotated[Path, typer.Option(help="Folder of the published data set.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of all runs; a stopped benchmark goes on.", show_default=False)],
    json: Annotated[Path, typer.Option(help="File to write the scores to.", show_default=False)],
    config: Annotated[Path, typer.Option(help="TOML file.", show_default="distill_crchisto.toml")] = CONFIGS
    / "distill_crchisto.toml",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every fold.")] = 2,
) -> None:
    """Train baseline, teacher and student on every fold, or on ever more bags of digits; hours on a CPU."""
    with missing_packages():
        from glassrt.benchmarks.distill import draw_table, measure_distill
        from glassrt.training.config import load_config
        from glassrt.training.methods.distill_to_label import DistillConfig
        from glassrt.training.world import join_world

    settings = load_config(config, DistillConfig)
    with join_world() as world, bars(world.leads) as stage:
        report = measure_distill(settings, data, out, seeds, world, stage, json)
    if not world.leads:
        return
    heads, *rows = draw_table(report)
    table = PlainTable("Distill-to-Label, percent")
    for name in heads:
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
