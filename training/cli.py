"""`glassrt train` and `glassrt evaluate`."""

import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE, open_bundle
from glassrt.engine.commands.options import BACKEND, PRECISION, parse_scales
from glassrt.engine.commands.progress import show_progress
from glassrt.engine.commands.terminal import PlainTable
from glassrt.engine.errors import UsageError
from glassrt.engine.files import readable_json, replace_file
from glassrt.engine.runtimes.open import open_backend

CONFIGS = Path(__file__).parent / "configs"

train_app = typer.Typer(help="Train networks.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add this room's commands."""
    app.add_typer(train_app, name="train")
    app.command("evaluate")(evaluate_command)


@train_app.callback()
def train_group() -> None:
    """Train networks."""


DATA = typer.Option(help="Folder of the published data set.", show_default=False)
RUN = typer.Option(help="Run folder; a stopped run in it goes on.", show_default=False)


@train_app.command("segment")
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
        samples = segment.load_samples(data, settings.split, masks)
        keep_config(settings, out, world)
        labels = "masks" if masks is None else "given masks"
        segment.train(settings, samples, out, world, stage("segment", settings.steps), labels=labels)
    if world.leads:
        tell_next(out)


@train_app.command("oeem")
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


@contextmanager
def missing_packages(extra: str = "train") -> Iterator[None]:
    """Say which extra to install where an import fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(f"this needs {error.name}, which is not installed: pip install 'glassrt[{extra}]'") from error


@contextmanager
def bars(shown: bool) -> Iterator[Callable[[str, int], Callable[[int, float], None]]]:
    """Show how far each stage is, of its name and steps; what is yielded returns what to tell step and loss."""
    with show_progress("steps", shown=shown) as progress:

        def stage(name: str, steps: int) -> Callable[[int, float], None]:
            advance = progress.start(name, steps)

            def update(step: int, loss: float) -> None:
                advance(step + 1, steps, "" if math.isnan(loss) else f"loss {loss:.3f}")

            return update

        yield stage


def tell_next(run: Path) -> None:
    """What to do with a finished run."""
    print(f"{run / 'model.safetensors'}: export it with `glassrt export {run} --out NAME.glass`")


def evaluate_command(
    data: Annotated[Path, typer.Option(help="Folder of the published data set.", show_default=False)],
    bundle: Annotated[Path, typer.Argument(help="Bundle to score.", show_default="the one shipped")] = DEFAULT_BUNDLE,
    dataset: Annotated[str, typer.Option(help="glas.")] = "glas",
    split: Annotated[str, typer.Option(help="train, testA or testB.")] = "testA",
    scales: Annotated[str | None, typer.Option(help="Scales, e.g. 0.75,1,1.5.", show_default="the bundle's")] = None,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="Average with mirrored windows.", show_default="the bundle's"),
    ] = None,
    backend: Annotated[str, BACKEND] = "auto",
    precision: Annotated[str, PRECISION] = "fp32",
    json: Annotated[Path | None, typer.Option(help="File to write the scores to.", show_default=False)] = None,
) -> None:
    """Score a bundle against the masks of a labelled set."""
    from glassrt.training.evaluate import evaluate

    opened = open_bundle(bundle).replace(parse_scales(scales), flip)
    runtime = open_backend(opened, backend, precision=precision, throughput=True)
    with closing(runtime), show_progress("images") as progress:
        report = evaluate(opened, runtime, dataset, data, split, progress.start(f"{dataset} {split}"))
    table = PlainTable(f"{opened.manifest.name} on {dataset} {split}, {report['images']} images, {report['backend']}")
    for name in report["scores"]:
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:.2f}" for value in report["scores"].values()))
    Console().print(table)
    if json is not None:
        with replace_file(json) as beside:
            beside.write_bytes(readable_json(report))
