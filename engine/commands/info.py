"""`glassrt info`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from glassrt.engine.bundles.bundle import SHIPPED, Bundle, open_bundle
from glassrt.engine.bundles.checks import read_checks
from glassrt.engine.bundles.kinds.classification import Classification
from glassrt.engine.bundles.kinds.encoder import Encoder
from glassrt.engine.bundles.kinds.mil import Mil
from glassrt.engine.bundles.kinds.segmentation import Segmentation
from glassrt.engine.commands.terminal import PlainTable
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.slide import Slide


def info_command(
    path: Annotated[
        Path,
        typer.Argument(
            help="A slide, an image, a bundle folder or the name of a bundle that ships.",
            show_default=False,
            readable=False,
        ),
    ],
    mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel, for files that do not say.")] = None,
) -> None:
    """Describe a slide or a bundle."""
    table = PlainTable(show_header=False)
    ships = path.name == str(path) and not path.exists() and (SHIPPED / f"{path}.glass").is_dir()
    if ships or path.is_dir():
        describe_bundle(table, open_bundle(path))
    else:
        with open_slide(path, mpp) as slide:
            describe_slide(table, slide)
    Console().print(table)


def describe_bundle(table: PlainTable, bundle: Bundle) -> None:
    """Fill `table` with what a bundle's manifest says; its graphs are checked against their sha256."""
    manifest = bundle.manifest
    table.add_row("bundle", f"{manifest.name} ({manifest.kind})")
    table.add_row("resolution", f"{manifest.mpp:g} µm per pixel")
    if isinstance(manifest, Segmentation):
        describe_classes(table, manifest)
    else:
        table.add_row("tiles", f"{manifest.window} px, stride {manifest.stride}")
    if isinstance(manifest, Encoder | Mil):
        table.add_row("features", f"{manifest.features} of each tile")
    for seen in manifest.inputs[1:]:
        where = "shared by windows within" if seen.anchor == "tile" else "around the window's middle"
        table.add_row(seen.name, f"{seen.side} px of {manifest.mpp * seen.factor:g} µm, {where}")
    for graph in manifest.graphs:
        size = len(bundle.read_entry(graph))
        kept = f", {len(graph.kept_float)} layers in float32" if graph.kept_float else ""
        device = "" if graph.target == "any" else f" for {graph.target}"
        what = "graph" if graph.role == "main" else f"{graph.role} graph"
        table.add_row(what, f"{graph.file}: {graph.precision}{device}{kept}, {size / 1e6:.1f} MB, sha256 matches")
    table.add_row("trained", manifest.trained)
    table.add_row("licence", manifest.licence)
    for check in read_checks(bundle):
        passed = "passed" if check.passed else "FAILED"
        figures = f"largest difference {check.largest:.2g}, {check.flips:.2%} of places change class"
        if check.cosine is not None:
            figures += f", least cosine {check.cosine:.5f}{', the bag changes class' if check.bag_changes else ''}"
        made_on = f"{check.backend} {check.version} on {check.device}, {check.isa}"
        table.add_row(f"{check.precision} through", f"{made_on}: {passed}, {figures}")
    table.add_row("sha256", bundle.sha256)


def describe_classes(table: PlainTable, manifest: Segmentation) -> None:
    """What a bundle tells apart, and how a slide is gone through."""
    table.add_row("classes", ", ".join(info.name for info in manifest.classes))
    if isinstance(manifest, Mil):
        of = "tiles" if manifest.takes == "tiles" else "features that were stored before"
        table.add_row("bags", f"{of}, {manifest.pooling} pooling")
    what = "tiles" if isinstance(manifest, Classification) else "windows"
    table.add_row(what, f"{manifest.window} px, stride {manifest.stride}, output stride {manifest.output_stride}")
    scales = ", ".join(f"{scale:g}" for scale in manifest.scales)
    table.add_row("scales", f"{scales}{', mirrored too' if manifest.flips else ''}")
    parted = f"; contours part those of {manifest.contour_of} that touch" if manifest.contoured else ""
    table.add_row("regions", f"from {manifest.smallest_region_um2:.4g} µm² on{parted}")
    if asked := manifest.slide_scores:
        pooled = f"maximum, 99th percentile and mean of the top {asked.eta:g} % of the tissue"
        table.add_row("slide scores", f"log-odds of {asked.of}: {pooled}")
    if manifest.overlay == "heat":
        table.add_row("overlay", f"probability of {manifest.classes[manifest.suspected].name} as heat")


def describe_slide(table: PlainTable, slide: Slide) -> None:
    """Fill `table` with a slide's source, size, resolution and levels."""
    width, height = slide.levels[0].size
    table.add_row("slide", slide.name)
    table.add_row("read by", slide.source)
    table.add_row("resolution", f"{slide.mpp:g} µm per pixel")
    table.add_row("size", f"{width} x {height} px, {width * slide.mpp / 1e3:.2f} x {height * slide.mpp / 1e3:.2f} mm")
    for number, level in enumerate(slide.levels):
        across, down = level.size
        table.add_row(f"level {number}", f"{across} x {down} px, {slide.mpp * level.scale[0]:.3g} µm per pixel")
