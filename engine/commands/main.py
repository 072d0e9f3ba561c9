"""The `glassrt` command. The other rooms add theirs through the entry-point group `glassrt.commands`."""

import contextlib
import io
import sys
import time
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE, Bundle, open_bundle
from glassrt.engine.bundles.checks import read_checks
from glassrt.engine.bundles.parts import Precision
from glassrt.engine.commands.interrupt import Interrupt
from glassrt.engine.commands.progress import Bars
from glassrt.engine.commands.terminal import PlainTable, printable
from glassrt.engine.errors import GlassError, UsageError
from glassrt.engine.production.batch import Job, score_batch
from glassrt.engine.results.summary import SUMMARY, Outcome
from glassrt.engine.runtimes.choose import GPU_BATCH, MOST_WINDOWS, NAMES, explain_slower
from glassrt.engine.runtimes.device import explain_unused, has_device
from glassrt.engine.runtimes.open import open_backend, open_plan_backend
from glassrt.engine.runtimes.plans import MODULES, find_flavour, open_plan
from glassrt.engine.slides.slide import Slide, open_slide
from glassrt.engine.tasks.segment import DEFAULT_READERS, MOST_READERS

BAD_INPUT, SLIDES_FAILED = 2, 3
MISTYPED: Any = typer.BadParameter.__base__  # of all that cannot be parsed; typer gives it no name of its own

BACKEND = typer.Option(help=f"auto, {', '.join(NAMES)}.")
PRECISION = typer.Option(help="fp32 (exact), bf16, fp16, int8, or auto: the fastest that the bundle was verified for.")

app = typer.Typer(
    help="Score whole-slide images with weakly supervised pathology models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; what a user can mend ends in one line and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal of other letters must not end a finished run
    for entry in entry_points(group="glassrt.commands"):
        entry.load()(app)
    try:
        sys.exit(app(standalone_mode=False))
    except GlassError as error:
        print(f"glassrt: {printable(str(error))}", file=sys.stderr)
    except MISTYPED as error:
        if message := " ".join(error.format_message().split()).rstrip("."):  # none where the help has been printed
            command = error.ctx.command_path if error.ctx else "glassrt"
            print(f"glassrt: {printable(message)}; see {command} --help", file=sys.stderr)
    sys.exit(BAD_INPUT)


def print_version(asked: bool) -> None:
    """Print the version and end, if `--version` was given."""
    if asked:
        print(f"glassrt {version('glassrt')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What holds for all commands."""


@app.command("score")
def score_command(
    slides: Annotated[list[Path], typer.Argument(help="Slides or images.", show_default=False)],
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
    """Score slides: a map, regions, a picture and figures for each.

    Exit code 3: some slides could not be scored (summary.csv says why); 2: nothing could be done.
    """
    opened = open_bundle(bundle).replace(parse_scales(scales), flip)
    runtime = open_backend(opened, backend, batch, precision=precision, throughput=True)
    console = Console()
    console.print(
        Text.assemble(
            (opened.manifest.name, "bold"),
            f" in {runtime.precision} with {runtime.name} {runtime.version} on {runtime.device} ({runtime.isa}), "
            f"scales {', '.join(f'{scale:g}' for scale in opened.manifest.scales)}"
            f"{', mirrored too' if opened.manifest.flips else ''}",
        )
    )
    if precision == "auto" and (line := explain_slower(opened, backend, (runtime.name, runtime.precision))):
        console.print(Text(printable(line)))
    job = Job(opened, runtime, out, mpp, map_mpp, readers, tissue)
    with contextlib.closing(runtime), Bars(console, len(slides)) as bars, Interrupt() as interrupt:
        outcomes = score_batch(slides, job, lambda path: interrupt.guard(bars.start(path)))
    console.print(summary_table(outcomes, opened))
    failed = [outcome for outcome in outcomes if outcome.result is None]
    for outcome in failed:
        print(f"glassrt: {printable(outcome.error)}", file=sys.stderr)
    for outcome in outcomes:
        for warning in outcome.result.warnings if outcome.result else ():
            print(f"glassrt: warning: {printable(f'{outcome.path}: {warning}')}", file=sys.stderr)
    print(printable(f"Results: {out / SUMMARY}", keep="\n\t"))
    for outcome in outcomes:
        if outcome.result is not None:
            folder = printable(str(job.folder(outcome.path)), keep="\n\t")
            print(f"  {folder}/  overlay.png  map.ome.tif  regions.geojson  result.json")
    if failed:
        raise typer.Exit(SLIDES_FAILED)


@app.command("plan")
def plan_command(
    bundle: Annotated[Path, typer.Argument(help="Bundle.", show_default="the one shipped")] = DEFAULT_BUNDLE,
    backend: Annotated[str, typer.Option(help="tensorrt or tensorrt-rtx.", show_default="what is installed")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, fp16, int8, with commas.")] = "fp32",
    batch: Annotated[str, typer.Option(help="Windows per network call, with commas.")] = str(GPU_BATCH),
) -> None:
    """Build TensorRT engines for this machine before they are needed; they are kept in the user's cache."""
    build_plans(open_bundle(bundle), backend, parse_precisions(precision), parse_counts("--batch", batch, 1))


def build_plans(bundle: Bundle, backend: str, precisions: tuple[Precision, ...], sizes: tuple[int, ...]) -> None:
    """Build the plans of a bundle and print where they are; on a GPU each is tried on the bundle's example."""
    flavour = find_flavour() if backend == "auto" else backend
    if flavour not in MODULES:
        raise UsageError(f"--backend {backend} has no plans; choose {' or '.join(MODULES)}")
    for precision in precisions:
        for size in sizes:
            start = time.perf_counter()
            if has_device():
                with contextlib.closing(open_plan_backend(bundle, flavour, size, precision)) as opened:
                    plan, tried = opened.plan, "gives the bundle's example"
            else:
                plan = open_plan(bundle, flavour, precision, size)
                tried = f"not tried: {explain_unused(lambda device: device.name) or 'no CUDA device here'}"
            made = f"built in {time.perf_counter() - start:.1f} s" if plan.built else "kept from before"
            print(f"{plan.path}: {len(plan.engine) / 1e6:.1f} MB, {made}, {tried}")


def parse_precisions(text: str) -> tuple[Precision, ...]:
    """Precisions from `fp32,int8`; UsageError for anything else."""
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if unknown := [part for part in parts if part not in get_args(Precision)]:
        raise UsageError(f"--precision {text}: {unknown[0]!r} is none of {', '.join(get_args(Precision))}")
    return parts  # type: ignore[return-value]


def parse_counts(option: str, text: str, least: int, most: int = MOST_WINDOWS) -> tuple[int, ...]:
    """Different whole numbers from `1,8`; UsageError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and least <= int(part) <= most for part in parts):
        raise UsageError(f"{option} {text}: expected whole numbers from {least} to {most} with commas, as in 1,8")
    return tuple(dict.fromkeys(int(part) for part in parts))


def parse_scales(text: str | None) -> tuple[float, ...] | None:
    """Scales from `0.75,1,1.5`; UsageError for anything else."""
    if text is None:
        return None
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0.1 <= scale <= 10 for scale in scales) or len(set(scales)) < len(scales):
        raise UsageError(f"--scales {text}: expected different numbers from 0.1 to 10 with commas, as in 0.75,1,1.5")
    return scales


def summary_table(outcomes: list[Outcome], bundle: Bundle) -> Table:
    """One row a slide: tissue; area, share of the tissue and regions of each class but the background; the work."""
    table = PlainTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("slide", overflow="fold")
    found = [info.name for info in bundle.manifest.classes[1:]]
    table.add_column("status")
    for heading in ("tissue mm²", *(text for name in found for text in (f"{name} mm²", "share", "regions"))):
        table.add_column(heading, justify="right")
    table.add_column("windows", justify="right")
    table.add_column("seconds", justify="right")
    for outcome in outcomes:
        row = [outcome.path.name, outcome.status]
        if outcome.result is not None:
            row.append(f"{outcome.result.tissue_mm2:.3f}")
            for name in found:
                figures = outcome.result.classes[name]
                row += [f"{figures.area_mm2:.3f}", f"{figures.tissue_fraction:.1%}", f"{figures.regions}"]
            row += [str(outcome.result.windows["run"]), f"{outcome.result.seconds['total']:.2f}"]
        table.add_row(*row)
    return table


@app.command("info")
def info_command(
    path: Annotated[Path, typer.Argument(help="A slide, an image or a bundle folder.", show_default=False)],
    mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel, for files that do not say.")] = None,
) -> None:
    """Describe a slide or a bundle."""
    table = PlainTable(show_header=False)
    if path.is_dir():
        describe_bundle(table, open_bundle(path))
    else:
        with open_slide(path, mpp) as slide:
            describe_slide(table, slide)
    Console().print(table)


def describe_bundle(table: Table, bundle: Bundle) -> None:
    """Fill `table` with what a bundle's manifest says; its graphs are checked against their sha256."""
    manifest = bundle.manifest
    table.add_row("bundle", f"{manifest.name} ({manifest.kind})")
    table.add_row("classes", ", ".join(info.name for info in manifest.classes))
    table.add_row("resolution", f"{manifest.mpp:g} µm per pixel")
    table.add_row("windows", f"{manifest.window} px, stride {manifest.stride}, output stride {manifest.output_stride}")
    scales = ", ".join(f"{scale:g}" for scale in manifest.scales)
    table.add_row("scales", f"{scales}{', mirrored too' if manifest.flips else ''}")
    for graph in manifest.graphs:
        size = len(bundle.read_graph(graph.precision, graph.target))
        kept = f", {len(graph.kept_float)} layers in float32" if graph.kept_float else ""
        device = "" if graph.target == "any" else f" for {graph.target}"
        table.add_row("graph", f"{graph.file}: {graph.precision}{device}{kept}, {size / 1e6:.1f} MB, sha256 matches")
    table.add_row("trained", manifest.trained)
    table.add_row("licence", manifest.licence)
    for check in read_checks(bundle):
        passed = "passed" if check.passed else "FAILED"
        figures = f"largest difference {check.largest:.2g}, {check.flips:.2%} of pixels change class"
        made_on = f"{check.backend} {check.version} on {check.device}, {check.isa}"
        table.add_row(f"{check.precision} through", f"{made_on}: {passed}, {figures}")
    table.add_row("sha256", bundle.sha256)


def describe_slide(table: Table, slide: Slide) -> None:
    """Fill `table` with a slide's source, size, resolution and levels."""
    width, height = slide.level_sizes[0]
    table.add_row("slide", slide.name)
    table.add_row("read by", slide.source)
    table.add_row("resolution", f"{slide.mpp:g} µm per pixel")
    table.add_row("size", f"{width} x {height} px, {width * slide.mpp / 1e3:.2f} x {height * slide.mpp / 1e3:.2f} mm")
    for level, size in enumerate(slide.level_sizes):
        table.add_row(f"level {level}", f"{size[0]} x {size[1]} px, {slide.mpp * width / size[0]:.3g} µm per pixel")
