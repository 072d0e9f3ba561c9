"""`glassrt score`."""

import contextlib
import itertools
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE, Bundle, open_bundle
from glassrt.engine.bundles.kinds.mil import Mil
from glassrt.engine.commands.interrupt import Interrupt
from glassrt.engine.commands.options import BACKEND, PRECISION, parse_scales
from glassrt.engine.commands.progress import show_progress
from glassrt.engine.commands.terminal import PlainTable, printable
from glassrt.engine.errors import UsageError
from glassrt.engine.production.batch import Job, score_batch
from glassrt.engine.production.stored import BAGS, score_files
from glassrt.engine.results.summary import SUMMARY, Outcome
from glassrt.engine.runtimes.choose import explain_slower
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.runtimes.table import MOST_WINDOWS
from glassrt.engine.tasks.segment import DEFAULT_READERS, MOST_READERS

SLIDES_FAILED = 3  # exit code of a batch in which some slides could not be scored


def score_command(
    slides: Annotated[list[Path], typer.Argument(help="Slides or images.", show_default=False, readable=False)],
    out: Annotated[Path, typer.Option(help="Folder for summary.csv and one folder a slide.", show_default=False)],
    bundle: Annotated[
        Path, typer.Option(help="Bundle to score with.", show_default="the one shipped")
    ] = DEFAULT_BUNDLE,
    backend: Annotated[str, BACKEND] = "auto",
    precision: Annotated[str, PRECISION] = "auto",
    scales: Annotated[str | None, typer.Option(help="Scales, e.g. 0.75,1,1.5.", show_default="the bundle's")] = None,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="Average with mirrored windows.", show_default="the bundle's"),
    ] = None,
    map_mpp: Annotated[
        float | None, typer.Option(help="Micrometres per map pixel.", show_default="a quarter of a logit's")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per slide pixel.", show_default="what the file says")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_WINDOWS, help="Windows per network call.", show_default="what suits the runtime"),
    ] = None,
    readers: Annotated[int, typer.Option(min=1, max=MOST_READERS, help="Threads that read and cut.")] = DEFAULT_READERS,
    tissue: Annotated[
        str,
        typer.Option(
            help="auto: found by colour and grain; all; or a mask: PNG or TIFF (0 is none) or GeoJSON as from QuPath; "
            "for several slides a folder of masks named like them."
        ),
    ] = "auto",
) -> None:
    """Score slides: a map, regions, a picture and figures for each; or files of features, with a bundle of those.

    Exit code 3: some slides could not be scored (summary.csv says why); 2: nothing could be done.
    """
    opened = open_bundle(bundle).replace(parse_scales(scales), flip)
    at, mirrored = opened.segmentation.views
    runtime = open_backend(opened, backend, batch, precision=precision, throughput=True)
    console = Console()
    console.print(
        Text.assemble(
            (opened.manifest.name, "bold"),
            f" in {runtime.precision} with {runtime.name} {runtime.version} on {runtime.device} ({runtime.isa}), "
            f"scales {', '.join(f'{scale:g}' for scale in at)}{', mirrored too' if mirrored else ''}",
        )
    )
    if precision == "auto" and (line := explain_slower(opened, backend, (runtime.name, runtime.precision))):
        console.print(Text(printable(line)))
    if isinstance(opened.manifest, Mil) and opened.manifest.takes == "features":
        if (mpp, map_mpp, tissue) != (None, None, "auto"):
            raise UsageError("--mpp, --map-mpp and --tissue are of slides: files of features have none of them")
        with contextlib.closing(runtime):
            score_stored(slides, opened, runtime, out, console)
        return
    job = Job(opened, runtime, out, mpp, map_mpp, readers, tissue)
    numbers = (f"[{number}/{len(slides)}] " if len(slides) > 1 else "" for number in itertools.count(1))
    with contextlib.closing(runtime), show_progress("windows", batch=True) as shown, Interrupt() as interrupt:
        outcomes = score_batch(slides, job, lambda path: interrupt.guard(shown.start(next(numbers) + path.name)))
    console.print(summary_table(outcomes, opened))
    print_outcomes(outcomes, job)
    if any(outcome.result is None for outcome in outcomes):
        raise typer.Exit(SLIDES_FAILED)


def score_stored(paths: list[Path], bundle: Bundle, runtime: Backend, out: Path, console: Console) -> None:
    """Score files of features, and show what each is as a bag."""
    outcomes = score_files(paths, bundle, runtime, out)
    table = PlainTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("file", overflow="fold")
    found = [info.name for info in bundle.segmentation.classes[1:]]
    for heading in ("tiles", *(f"bag {name}" for name in found), "seconds"):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        row = [outcome.path.name]
        if outcome.result is not None:
            bag = outcome.result.bag
            row += [str(bag.tiles), *(f"{bag.probabilities[name]:.3f}" for name in found)]
            row.append(f"{outcome.result.seconds['total']:.2f}")
        table.add_row(*row, *([] if outcome.result else ["failed"]))
    console.print(table)
    for outcome in outcomes:
        if outcome.result is None:
            print(f"glassrt: {printable(outcome.error)}", file=sys.stderr)
    print(printable(f"Results: {out / BAGS}", keep="\n\t"))
    if any(outcome.result is None for outcome in outcomes):
        raise typer.Exit(SLIDES_FAILED)


def print_outcomes(outcomes: list[Outcome], job: Job) -> None:
    """What went wrong and what to be wary of, on standard error; and where the results lie."""
    for outcome in outcomes:
        if outcome.result is None:
            print(f"glassrt: {printable(outcome.error)}", file=sys.stderr)
    for outcome in outcomes:
        for warning in outcome.result.warnings if outcome.result else ():
            print(f"glassrt: warning: {printable(f'{outcome.path}: {warning}')}", file=sys.stderr)
    print(printable(f"Results: {job.out / SUMMARY}", keep="\n\t"))
    for outcome in outcomes:
        if outcome.result is not None:
            folder = printable(str(job.folder(outcome.path)), keep="\n\t")
            more = "  attention.png  top_tiles.png  features.h5" if outcome.result.bag else ""
            more += "  tiles.csv" if outcome.result.tiles else ""
            print(f"  {folder}/  overlay.png  map.ome.tif  regions.geojson  result.json{more}")


def summary_table(outcomes: list[Outcome], bundle: Bundle) -> Table:
    """One row a slide: what it is as a bag, its score (the 99th percentile) if the bundle asks for them; tissue; area,
    share of the tissue and regions of each class but the background; the work.
    """
    table = PlainTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("slide", overflow="fold")
    told = bundle.segmentation
    found = [info.name for info in told.classes[1:]]
    bags = found if isinstance(told, Mil) else []
    table.add_column("status")
    for name in bags:
        table.add_column(f"bag {name}", justify="right")
    if told.slide_scores:
        table.add_column(f"{told.slide_scores.of} log-odds", justify="right")
    for heading in ("tissue mm²", *(text for name in found for text in (f"{name} mm²", "share", "regions"))):
        table.add_column(heading, justify="right")
    table.add_column("windows", justify="right")
    table.add_column("seconds", justify="right")
    for outcome in outcomes:
        row = [outcome.path.name, outcome.status]
        if outcome.result is not None:
            row += [f"{outcome.result.bag.probabilities[name]:.3f}" if outcome.result.bag else "" for name in bags]
            if told.slide_scores:
                scores = outcome.result.slide_scores
                row.append(f"{scores.percentile_99_log_odds:.2f}" if scores else "")
            row.append(f"{outcome.result.tissue_mm2:.3f}")
            for name in found:
                figures = outcome.result.classes[name]
                row += [f"{figures.area_mm2:.3f}", f"{figures.tissue_fraction:.1%}", f"{figures.regions}"]
            row += [str(outcome.result.windows["run"]), f"{outcome.result.seconds['total']:.2f}"]
        table.add_row(*row)
    return table
