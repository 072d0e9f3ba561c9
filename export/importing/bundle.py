"""A foreign ONNX network -> a bundle, held against the network as it was given before anything is written."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from glassrt.engine.bundles.bundle import LARGEST_GRAPH, Bundle, write_bundle
from glassrt.engine.bundles.checks import TOLERANCES
from glassrt.engine.bundles.example import Known, store_example
from glassrt.engine.bundles.kinds.encoder import tiles
from glassrt.engine.bundles.parts import Example, Graph, Precision
from glassrt.engine.bundles.scan import scan_graph
from glassrt.engine.errors import BundleError, GlassError, UsageError, first_line
from glassrt.engine.runtimes.ort import OrtBackend
from glassrt.engine.slides.slide import Pixels
from glassrt.export.calibration import FEWEST, Calibration, collect_calibration, collect_windows, paint_window
from glassrt.export.comparison import edge_windows, run_each
from glassrt.export.importing.foreign import Foreign, load_foreign
from glassrt.export.importing.settings import Classes, Kind, Settings, arrange
from glassrt.export.importing.statement import Meaning, Statement, Values, check_scaling, find_meaning, undo
from glassrt.export.importing.surgery import build_graph
from glassrt.export.lowering import describe_graph, lower_all
from glassrt.export.samples import Samples

GRAPH, EXAMPLE = "fp32.onnx", "example.npz"
UNMADE = (Graph(GRAPH, 64 * "0"),)  # stands for the graph in the manifest of a bundle that has none yet
AT_ONCE = 2  # windows in a batch: what takes one alone shows there
OVERLAP = 0.25  # of segmented windows, along a side


def import_network(
    path: Path,
    settings: Settings,
    out: Path,
    output: str | None = None,
    tissue: Path | None = None,
    precisions: Sequence[Precision] = ("fp32",),
    told: Callable[[str], None] = lambda line: None,
) -> Bundle:
    """Make the bundle folder `out` of the ONNX network in a file.

    `output` names the one of several that is wanted. Both are compared on windows of the slides in the folder `tissue`,
    or a painted one, and on white, black and noise; on others of these int8 is calibrated. What was found and not said
    is `told`. Raises UsageError where the settings do not fit the network, BundleError for a network that cannot be a
    bundle or loses too much in a precision, OutputError.
    """
    if "int8" in precisions and tissue is None:
        raise UsageError("int8 needs --tiles: a folder of slides or images of the bundle's tissue")
    foreign = load_foreign(path, settings, output)
    statement = Statement(foreign, settings)
    windows = paint_window(foreign.window)
    check_scaling(windows, foreign, settings)
    given = statement.run(add_edges(windows))
    meaning = find_meaning(given, foreign, settings)
    classes = arrange(settings, meaning.channels) if settings.kind != "encoder" else Classes((), ())
    manifest = describe(out.stem, foreign, settings, meaning, classes)
    name = manifest.inputs[0].name
    held = Calibration({name: windows}, {name: windows}, ())
    if tissue is not None:
        held = collect_tissue(tissue, manifest, {*precisions} != {"fp32"})
        windows = held.calibrated[name][:FEWEST]
        check_scaling(windows, foreign, settings)
        given = statement.run(add_edges(windows))
    graph = build_graph(foreign, settings, meaning, classes.order, manifest.whole)
    refuse_unsafe(graph, path)
    refuse_other(graph, {name: add_edges(windows)}, given, meaning, classes.order, foreign)
    lowered = list(lower_all({"main": graph}, precisions, held, manifest))
    for line in tell_found(foreign, settings, meaning, classes):
        told(line)
    known = msgspec.structs.replace(manifest, calibrated=held.seen)
    return store(out, known, graph, lowered, {name: windows[:1]}, tissue is None)


def collect_tissue(folder: Path, manifest: Kind, lowered: bool) -> Calibration:
    """Windows of a folder's slides to compare both on, and where precisions are `lowered`, to make and measure them."""
    if lowered:
        return collect_calibration(folder, manifest)
    windows = collect_windows(folder, manifest, FEWEST)
    return Calibration(windows, windows, ())


def add_edges(windows: Pixels) -> Pixels:
    """Windows `[N, H, W, 3]` with three that no slide should have, white, black and noise."""
    (edges,) = edge_windows((tiles(windows.shape[1]),)).values()
    return np.concatenate([windows, edges])


def describe(name: str, foreign: Foreign, settings: Settings, meaning: Meaning, classes: Classes) -> Kind:
    """The manifest, but for the graph and its example. Raises UsageError for what no bundle may say."""
    window, source = foreign.window, f"imported from {foreign.path.name}"
    segments = settings.kind == "segmentation"
    said: dict[str, object] = {
        "kind": settings.kind, "name": name, "mpp": settings.mpp, "window": window, "licence": settings.licence,
        "stride": settings.stride or (round(window * (1 - OVERLAP)) if segments else window), "graphs": UNMADE,
        "trained": f"{settings.origin}; {source}" if settings.origin else source,
    }  # fmt: skip
    if settings.kind == "encoder":
        said["features"] = meaning.channels
    else:
        maps = {"classes": classes.infos, "output_stride": meaning.stride or window, "scales": (1.0,), "flips": False}
        said |= maps
    try:
        manifest: Kind = msgspec.convert(msgspec.to_builtins(said), Kind)
    except msgspec.MsgspecError as error:
        raise UsageError(f"{foreign.path} makes no bundle with these settings: {first_line(error)}") from error
    return manifest


def tell_found(foreign: Foreign, settings: Settings, meaning: Meaning, classes: Classes) -> list[str]:
    """What the network showed by itself, which the user may know better, one line each."""
    lines = []
    if settings.kind != "encoder" and settings.activation is None:
        lines.append(f"its outputs are taken for {meaning.activation}, as they look")
    if meaning.channels == 1 and settings.kind != "encoder":
        positive, other = (classes.infos[classes.order.index(at)].name for at in (1, 0))
        lines.append(f"its only output speaks for {positive!r}, against {other!r}")
    elif classes.infos and settings.background is None:
        lines.append(f"{classes.infos[0].name!r}, the first class, is the background")
    if foreign.batch is not None:
        lines.append(f"it was made for {foreign.batch} windows at once, its bundle takes any number")
    return lines


def refuse_unsafe(graph: bytes, path: Path) -> None:
    """Raise BundleError for a graph that no bundle could be opened with."""
    if len(graph) > LARGEST_GRAPH:
        raise BundleError(f"{path} makes a graph of {len(graph)} bytes, over {LARGEST_GRAPH}")
    try:
        scan_graph(graph)
    except ValueError as error:
        raise BundleError(f"{path} makes no graph for a bundle: {error}") from error


def refuse_other(
    graph: bytes, samples: Samples, given: Values, meaning: Meaning, order: tuple[int, ...], foreign: Foreign
) -> None:
    """Raise BundleError unless the bundle's graph says of windows what the network `given` says, one by one and in
    batches: its own outputs, to a ten thousandth of the largest.
    """
    wanted = np.moveaxis(given, meaning.channels_at, 1)
    wanted = wanted if meaning.stride else wanted.reshape(len(given), -1)
    for batch in (1, AT_ONCE):
        try:
            (found,) = run_each(OrtBackend(graph, batch, 0, "fp32"), samples).values()
            own = undo(found, meaning, order or tuple(range(found.shape[1])))
            off = float(np.abs(own - wanted).max()) if own.shape == wanted.shape else float("nan")
            fault = f"off by {off:.2g}"
        except (GlassError, ValueError) as error:
            off, fault = float("nan"), first_line(error)
        if not off <= TOLERANCES["fp32"].largest * float(np.abs(wanted).max()):
            at_once = "a window gives" if batch == 1 else f"{batch} windows at once give"
            hint = "" if foreign.batch in (None, batch) else ", export it with a free batch size"
            raise BundleError(f"{foreign.path} is not imported: {at_once} another output in its bundle{hint} ({fault})")


def store(
    out: Path,
    manifest: Kind,
    graph: bytes,
    lowered: Sequence[tuple[Graph, bytes]],
    window: Samples,
    painted: bool,
) -> Bundle:
    """Write the bundle with what its graph exactly gives for one window."""
    exact = manifest.whole.name_outputs(run_each(OrtBackend(graph, 1, 0, "fp32"), window))
    example = store_example(Known(window, exact))
    finished = msgspec.structs.replace(
        manifest,
        graphs=(describe_graph(GRAPH, graph), *(entry for entry, _ in lowered)),
        examples=(Example(EXAMPLE, hashlib.sha256(example).hexdigest(), painted=painted or msgspec.UNSET),),
    )
    contents = {entry.file: content for entry, content in lowered}
    return write_bundle(out, finished, {GRAPH: graph, EXAMPLE: example, **contents})
