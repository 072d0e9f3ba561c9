"""`glassrt export`, `glassrt import` and `glassrt verify`."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from glassrt.engine.bundles.bundle import Bundle, open_bundle
from glassrt.engine.bundles.checks import Check, record_checks
from glassrt.engine.bundles.parts import COARSEST_MPP, FINEST_MPP, is_name
from glassrt.engine.commands.options import parse_precisions
from glassrt.engine.commands.plan import build_plans
from glassrt.engine.commands.progress import show_progress, show_status
from glassrt.engine.commands.terminal import PlainTable
from glassrt.engine.errors import BundleError, GlassError, UsageError
from glassrt.engine.files import readable_json, replace_file
from glassrt.engine.runtimes.flavours import find_flavour
from glassrt.engine.runtimes.table import GPU_BATCH
from glassrt.export.triton import prepare_repository, write_repository
from glassrt.training.commands.options import DATA, missing_packages

BROKEN = 1  # exit code of a bundle that fails its verification


def register(app: typer.Typer) -> None:
    """Add this room's commands."""
    app.command("export")(export_command)
    app.command("export-encoder")(export_encoder_command)
    app.command("import")(import_command)
    app.command("verify")(verify_command)
    app.command("map-suspects")(map_suspects_command)


def export_command(
    run: Annotated[Path, typer.Argument(help="Folder of a finished training run.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Bundle folder to write, NAME.glass.", show_default=False)],
    precision: Annotated[str, typer.Option(help="fp32, fp16, int8, with commas; fp32 is always there.")] = "fp32",
    calibration: Annotated[
        Path | None, typer.Option(help="Folder of slides or images that int8 is calibrated on.", show_default=False)
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Build TensorRT engines for this machine too.")] = False,
    triton: Annotated[
        Path | None, typer.Option(help="Model repository of NVIDIA Triton to add the graphs to.", show_default=False)
    ] = None,
) -> None:
    """Export a finished training run to a bundle."""
    check_out(out)
    precisions = parse_precisions(precision)
    with missing_packages("cpu,export"):
        from glassrt.export.bundle import export_run
    if triton is not None:
        prepare_repository(triton)
    flavour = find_flavour() if plan else ""
    bundle = export_run(run, out, out.stem, precisions, calibration)
    tell_made(bundle)
    if triton is not None:
        for folder in write_repository(bundle, triton):
            print(folder)
    if plan:
        build_plans(bundle, flavour, precisions, (GPU_BATCH,))


def export_encoder_command(
    encoder: Annotated[
        str, typer.Argument(help="efficientnet_lite0 to 2, resnet18 to 152 or resnet38.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Bundle folder to write, NAME.glass.", show_default=False)],
    weights: Annotated[str, typer.Option(help="File of weights, or imagenet.")] = "imagenet",
    mpp: Annotated[
        float, typer.Option(min=FINEST_MPP, max=COARSEST_MPP, help="Micrometres per pixel of its tiles.")
    ] = 0.5,
    window: Annotated[int, typer.Option(min=32, max=4096, help="Pixels along a tile's side.")] = 224,
    precision: Annotated[str, typer.Option(help="fp32, fp16, int8, with commas; fp32 is always there.")] = "fp32",
    calibration: Annotated[
        Path | None, typer.Option(help="Folder of slides or images that int8 is calibrated on.", show_default=False)
    ] = None,
) -> None:
    """Export an encoder with public weights to a bundle that `glassrt embed` takes."""
    check_out(out)
    precisions = parse_precisions(precision)
    with missing_packages("cpu,export"):
        from glassrt.export.bundle import export_made
        from glassrt.export.kinds import encoder as kind
    made = kind.build(encoder, weights, out.stem, mpp, window)
    tell_made(export_made(made, f"{encoder} with {weights}", out, precisions, calibration))


def import_command(
    model: Annotated[Path, typer.Argument(help="ONNX file; what lies beside it is taken in.", show_default=False)],
    config: Annotated[
        Path,
        typer.Option(
            help="TOML, as example.toml in glassrt/export/importing explains: kind, mpp, licence, classes, background, "
            "window, stride, layout, scale, mean, std, bgr, activation, origin. Or WSInfer's config.json, or the "
            "metadata.json of a MONAI bundle.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Bundle folder to write, NAME.glass.", show_default=False)],
    output: Annotated[str | None, typer.Option(help="Which of its outputs.", show_default="the only one")] = None,
    tiles: Annotated[
        Path | None,
        typer.Option(
            help="Folder of slides or images that it is tried on, and int8 calibrated.", show_default="painted windows"
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16, int8, with commas; fp32 is always there.")] = "fp32",
    mpp: Annotated[
        float | None,
        typer.Option(
            min=FINEST_MPP, max=COARSEST_MPP, help="Micrometres per pixel of its windows.", show_default="the config's"
        ),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="What allows its use.", show_default="the config's")] = None,
    background: Annotated[
        str | None, typer.Option(help="The class that has no regions.", show_default="the config's, or the first")
    ] = None,
) -> None:
    """Make a bundle of an ONNX network that others trained: segmentation, classification of tiles, or an encoder."""
    check_out(out)
    precisions = parse_precisions(precision)
    with missing_packages("cpu,export"):
        from glassrt.export.importing.bundle import import_network
        from glassrt.export.importing.settings import keys_of, load_settings
    options = {"mpp": mpp, "licence": licence, "background": background}
    settings, notes = load_settings(config, {name: value for name, value in options.items() if value is not None})
    for line in notes:
        tell(line)
    with keys_of(config):
        bundle = import_network(model, settings, out, output, tiles, precisions, tell)
    tell_made(bundle)


def check_out(out: Path) -> None:
    """Raise UsageError for a folder that no bundle can have."""
    if out.suffix != ".glass" or not is_name(out.stem):
        raise UsageError(
            f"--out {out}: a bundle's folder is named NAME.glass, of letters, digits, dots, dashes and underlines"
        )


def tell_made(bundle: Bundle) -> None:
    """Say what was written."""
    held = ", ".join(graph.file for graph in bundle.manifest.graphs)
    print(f"{bundle.path}: {bundle.manifest.name} ({held}), sha256 {bundle.sha256}")


def verify_command(
    bundle: Annotated[Path, typer.Argument(help="Bundle to verify.", show_default=False)],
    tiles: Annotated[Path, typer.Option(help="Folder of slides or images of its tissue.", show_default=False)],
    against: Annotated[
        Path | None, typer.Option(help="Run folder: compare with torch.", show_default="the float32 graph")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of GlaS: measure the change of mIoU too.", show_default=False)
    ] = None,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
) -> None:
    """Run every graph through every runtime here and record what it loses.

    Exit code 1: a graph loses too much or cannot be loaded; 2: nothing could be done.
    """
    with missing_packages("cpu"):
        from glassrt.export.calibration import collect_windows
        from glassrt.export.verify import verify
    opened = open_bundle(bundle)
    opened.check_files()
    if not opened.manifest.inputs:
        raise UsageError(
            f"{bundle} takes features that were stored before, which no tiles show: it runs in float32 alone, and "
            "tries its example whenever it is opened: there is nothing to verify"
        )
    exact = None
    if against is not None:
        with missing_packages("cpu,export"):
            from glassrt.export.bundle import open_network
        exact = open_network(against)
    windows = collect_windows(tiles, opened.manifest, told=tell)
    left_out: list[GlassError] = []
    with show_status("verify", "verifying") as progress:
        checks = verify(opened, windows, exact, data, progress, left_out.append, tell)
    kept = record_checks(opened, checks)
    Console().print(check_table(checks))
    for error in left_out:
        tell(f"left out: {error}")
    print(f"{kept}: {len(checks)} checks of {opened.sha256}")
    if json is not None:
        with replace_file(json) as beside:
            beside.write_bytes(readable_json(checks))
    if any(is_broken(check) for check in checks) or any(isinstance(error, BundleError) for error in left_out):
        raise typer.Exit(BROKEN)


def tell(line: str) -> None:
    """Say on standard error what the user has to know of how something was done."""
    print(f"glassrt: {line}", file=sys.stderr)


def check_table(checks: tuple[Check, ...]) -> Table:
    """One row a check."""
    table = PlainTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    vectors = any(check.cosine is not None for check in checks)
    last = "least cosine" if vectors else "mIoU"
    for name in ("precision", "through", "on", "largest", "mean", "NaN", "other class", last, ""):
        table.add_column(name)
    for check in checks:
        change = "" if check.miou_change is None else f"{check.miou_change:+.2f}"
        change = change if check.cosine is None else f"{check.cosine:.5f}"
        figures = (f"{check.largest:.2g}", f"{check.mean:.2g}", str(check.nan), f"{check.flips:.3%}", change)
        verdict = "passed" if check.passed else Text("FAILED", style="red") if is_broken(check) else "not offered"
        table.add_row(check.precision, check.backend, f"{check.device}, {check.isa}", *figures, verdict)
    return table


def is_broken(check: Check) -> bool:
    """Whether a graph of the bundle failed; bfloat16 is the processor's offer, which the bundle then does not take."""
    return not check.passed and check.precision != "bf16"


def map_suspects_command(
    run: Annotated[Path, typer.Argument(help="Folder of a beta-KL run that is being trained.", show_default=False)],
    data: Annotated[Path, DATA],
    parent: Annotated[int, typer.Option(hidden=True, help="End when this process, which began it, is gone.")] = 0,
) -> None:
    """Map the slides of a run with its newest weights, while it is trained with mapping = "beside"."""
    with missing_packages("cpu,export"):
        from glassrt.export.mapping import follow_run
    with show_progress("steps") as progress:
        finished = follow_run(run, data, progress.start("map-suspects"), parent)
    why = "the run is finished, no more maps are needed" if finished else "the process that began this is gone"
    print(f"{run}: {why}")
