"""`glassrt bench transfer`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from glassrt.engine.commands.terminal import PlainTable
from glassrt.engine.errors import UsageError
from glassrt.engine.runtimes.isa import count_cores
from glassrt.training.commands.options import CONFIGS, bars, missing_packages


def transfer_command(
    data: Annotated[Path, typer.Option(help="Folder of the patches.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of all runs; a stopped benchmark goes on.", show_default=False)],
    json: Annotated[Path, typer.Option(help="File to write the scores to; a PNG beside it.", show_default=False)],
    config: Annotated[Path, typer.Option(help="TOML file.", show_default="transfer_compact.toml")] = CONFIGS
    / "transfer_compact.toml",
    natural: Annotated[
        Path | None, typer.Option(help="Folder of PASCAL VOC 2012.", show_default="that of --data")
    ] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(help="NAME=ENCODER:FILE, a start of your own: weights, or a run's model.", show_default=False),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Subsets and seeds of each start.")] = 10,
) -> None:
    """Train classifiers of few patches from every start: none, VOC's labels, ImageNet, your own."""
    if json.suffix == ".png":
        raise UsageError(f"--json {json} would be the picture's file; name it otherwise")
    with missing_packages("bench"):
        import matplotlib  # noqa: F401  # before an hour of training

        from glassrt.benchmarks.plots import plot_transfer
        from glassrt.benchmarks.transfer import draw_table, measure_transfer, parse_start
        from glassrt.training.config import load_config
        from glassrt.training.methods.transfer import TransferConfig
        from glassrt.training.world import join_world

    settings, starts = load_config(config, TransferConfig), [parse_start(each) for each in start or ()]
    with join_world() as world, bars(world.leads) as stage:
        if world.size > 1:
            raise UsageError("cells are trained one by one: start it without torchrun")
        processes = count_cores() if world.device.type == "cpu" else 1
        report = measure_transfer(settings, data, natural or data, out, starts, repeats, world, stage, json, processes)
    heads, *rows = draw_table(report)
    table = PlainTable(f"Transfer to {settings.dataset}, accuracy in percent on {report['tested']} patches")
    for name in heads:
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    plot_transfer(json.with_suffix(".png"), report)
