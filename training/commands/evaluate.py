"""`glassrt evaluate`."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE, open_bundle
from glassrt.engine.commands.options import BACKEND, PRECISION, parse_scales
from glassrt.engine.commands.progress import show_progress
from glassrt.engine.commands.terminal import PlainTable
from glassrt.engine.files import readable_json, replace_file
from glassrt.engine.runtimes.open import open_backend


def evaluate_command(
    data: Annotated[Path, typer.Option(help="Folder of the data set.", show_default=False)],
    bundle: Annotated[Path, typer.Argument(help="Bundle to score.", show_default="the one shipped")] = DEFAULT_BUNDLE,
    dataset: Annotated[
        str,
        typer.Option(
            help="glas, bach, mosaic, camelyon16, crchisto, ucsb, mnist-bags, kather, pcam, nuclei; your own: slides "
            "with labels.csv (labels), stored features with one (features), patches in a folder a class (folders)."
        ),
    ] = "glas",
    split: Annotated[
        str | None,
        typer.Option(
            help="Part of the set, e.g. train; of bags FOLD:SEED, of digits SIZE:SEED, of features all too.",
            show_default="the set's test split",
        ),
    ] = None,
    scales: Annotated[str | None, typer.Option(help="Scales, e.g. 0.75,1,1.5.", show_default="the bundle's")] = None,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="Average with mirrored windows.", show_default="the bundle's"),
    ] = None,
    backend: Annotated[str, BACKEND] = "auto",
    precision: Annotated[str, PRECISION] = "fp32",
    plots: Annotated[
        Path | None,
        typer.Option(help="Folder for ROC and FROC curves, of slides with labels.", show_default=False),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="File to write the scores to.", show_default=False)] = None,
) -> None:
    """Score a bundle against the masks and labels of a set. A score that is not defined is shown as nan."""
    from glassrt.training.evaluate import evaluate, find_set

    scored = find_set(dataset, data)
    split = split or scored.test_split
    opened = open_bundle(bundle).replace(parse_scales(scales), flip)
    runtime = open_backend(opened, backend, precision=precision, throughput=True)
    with closing(runtime), show_progress(scored.unit) as progress:
        report = evaluate(opened, runtime, dataset, data, split, progress.start(f"{dataset} {split}"), plots=plots)
    count = f"{report['images']} {scored.unit}"
    table = PlainTable(f"{opened.manifest.name} on {dataset} {split}, {count}, {report['backend']}")
    for name in report["scores"]:
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:.2f}" for value in report["scores"].values()))
    Console().print(table)
    if json is not None:
        with replace_file(json) as beside:
            beside.write_bytes(readable_json(report))
