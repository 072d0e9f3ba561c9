"""`glassrt bench oeem`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from glassrt.engine.commands.terminal import PlainTable
from glassrt.training.commands.options import CONFIGS, bars, missing_packages


def oeem_command(
    data: Annotated[Path, typer.Option(help="Folder of the GlaS images.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of all runs; a stopped benchmark goes on.", show_default=False)],
    json: Annotated[Path, typer.Option(help="File to write the scores to.", show_default=False)],
    config: Annotated[Path, typer.Option(help="TOML file.", show_default="oeem_compact.toml")] = CONFIGS
    / "oeem_compact.toml",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the rows that matter most.")] = 3,
) -> None:
    """Train OEEM with every loss of its tables and score each on GlaS testA; hours on a CPU."""
    with missing_packages():
        from glassrt.benchmarks.oeem import measure_oeem
        from glassrt.training.config import load_config
        from glassrt.training.methods.oeem import OeemConfig
        from glassrt.training.world import join_world

    settings = load_config(config, OeemConfig)
    with join_world() as world, bars(world.leads) as stage:
        report = measure_oeem(settings, data, out, seeds, world, stage, json)
    if not world.leads:
        return
    table = PlainTable("GlaS testA, mIoU")
    for name in ("row", "seed", "scale 1", "multi-scale"):
        table.add_column(name)
    for row in report["rows"]:
        scores = (f"{row[test]['mIoU']:.2f}" if test in row else "" for test in ("scale 1", "multi-scale"))
        table.add_row(row["row"], str(row["seed"]), *scores)
    Console().print(table)
