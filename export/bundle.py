"""A run folder -> a bundle folder."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glassrt.engine.bundles.bundle import Bundle, write_bundle
from glassrt.engine.bundles.checks import TOLERANCES
from glassrt.engine.bundles.example import Known, store_example
from glassrt.engine.bundles.kinds.shared import Shared
from glassrt.engine.bundles.manifest import Manifest
from glassrt.engine.bundles.parts import Example, Graph, Precision, Role, Target
from glassrt.engine.bundles.tensors import Signature
from glassrt.engine.errors import BundleError, TrainingError, UsageError
from glassrt.export.calibration import Calibration, collect_calibration, paint
from glassrt.export.comparison import MadeOn, compare, edge_windows
from glassrt.export.kinds import bags, dual, patches, segmentation, weak
from glassrt.export.kinds.made import Made
from glassrt.export.precision import FLIPS_AIM, WEIGHT_BITS, Measure, run_graph, run_plainly, to_float16, to_int8
from glassrt.export.samples import Samples, count, each, join, pick, take
from glassrt.export.to_onnx import RawPixels, export_graph
from glassrt.training import checkpoint

Read = Callable[[Path, Mapping[str, Tensor], Mapping[str, str], str], Made]
READERS: dict[str, Read] = {  # by the method of a run
    "segment": segmentation.read,
    "oeem": segmentation.read,
    "da-refinenet": dual.read,
    "beta-kl": weak.read,
    "distill-to-label": bags.read,
    "transfer": patches.read,
}


def load_run(run: Path, name: str) -> Made:
    """The networks of the finished run in folder `run` and the manifest of a bundle `name`. Raises TrainingError."""
    file = run / "model.safetensors"
    tensors, metadata = checkpoint.load(file)
    read = READERS.get(metadata.get("method", ""))
    if read is None:
        raise TrainingError(f"{file} was not written by `glassrt train {' or '.join(READERS)}`: cannot be exported")
    return read(file, tensors, metadata, name)


def open_network(run: Path) -> Callable[[Samples], Samples]:
    """What torch makes of windows: the outputs of a finished run's networks together."""
    return partial(infer_together, *load_run(run, "unnamed"))


def infer_together(networks: Mapping[Role, nn.Module], manifest: Manifest, samples: Samples) -> Samples:
    """What torch makes of windows, each network given what those before it gave. Raises UsageError for others."""
    takes = {spec.name for spec in manifest.whole.inputs}
    if not takes <= samples.keys():
        raise UsageError(
            f"the run takes {' and '.join(sorted(takes))}, the bundle {' and '.join(sorted(samples))}: name the run "
            "that it was exported from with --against"
        )
    known = dict(samples)
    for role, network in networks.items():
        signature = manifest.networks[role]
        known |= infer_exactly(network, signature, pick(known, signature.inputs))
    return pick(known, manifest.whole.outputs)


def infer_exactly(network: nn.Module, signature: Signature, samples: Samples) -> Samples:
    """What torch makes of windows."""
    served = RawPixels(network).eval()
    with torch.inference_mode():
        return join([infer_one(served, signature, window) for window in each(samples)])


def infer_one(served: nn.Module, signature: Signature, window: Samples) -> Samples:
    """The outputs of one window."""
    given = served(*(torch.from_numpy(window[spec.name]) for spec in signature.inputs))
    outputs = given if isinstance(given, tuple) else (given,)
    return {spec.name: values.numpy() for spec, values in zip(signature.outputs, outputs, strict=True)}


def export_run(
    run: Path, out: Path, name: str, precisions: Sequence[Precision] = ("fp32",), calibration: Path | None = None
) -> Bundle:
    """Export the finished run in folder `run` to the bundle folder `out`, in float32 and other precisions.

    `calibration` is the folder of slides and images that int8 is calibrated on and the bundle's examples are taken
    from; without it they are painted. Raises BundleError, TrainingError, UsageError or OutputError.
    """
    return export_made(load_run(run, name), str(run), out, precisions, calibration)


def export_made(
    made: Made, source: str, out: Path, precisions: Sequence[Precision] = ("fp32",), calibration: Path | None = None
) -> Bundle:
    """As `export_run`, of networks that came from elsewhere; `source` names them in errors."""
    networks, manifest = made
    painted: bool | msgspec.UnsetType = msgspec.UNSET
    if isinstance(head := networks.get("main"), bags.Head):
        if calibration is not None or {*precisions} - {"fp32"}:
            raise UsageError(
                f"{source} learned from features that were stored before, which no folder of slides shows and which "
                "take no time: it is exported in fp32 alone, without --calibration"
            )
        tissue = Calibration(head.draw(), head.draw(), ())
    elif "int8" in precisions and calibration is None:
        raise UsageError("int8 needs --calibration: a folder of slides or images of the bundle's tissue")
    elif calibration is None:
        windows, painted = paint(manifest.inputs), True
        tissue = Calibration(windows, windows, ())
    else:
        tissue = collect_calibration(calibration, manifest)
    files: dict[str, bytes] = {}
    graphs: list[Graph] = []
    examples: list[Example] = []
    exact: dict[Role, bytes] = {}
    calibrated, measured = dict(tissue.calibrated), dict(tissue.measured)
    for role, network in networks.items():
        signature, prefix = manifest.networks[role], name_prefix(role)
        exact[role] = export_graph(network, signature)
        window = take(pick(calibrated, signature.inputs), slice(1))
        wanted = infer_exactly(network, signature, window)
        refuse_other_shapes(wanted, signature, source)
        refuse_other(run_graph(exact[role], window), wanted, source)
        stored = store_example(Known(window, wanted))
        examples.append(Example(f"{prefix}example.npz", hashlib.sha256(stored).hexdigest(), role, painted))
        graphs.append(describe_graph(f"{prefix}fp32.onnx", exact[role], role=role))
        files |= {examples[-1].file: stored, graphs[-1].file: exact[role]}
        if len(networks) > 1:  # those after it are given what it gives
            calibrated |= run_graph(exact[role], pick(calibrated, signature.inputs))
            measured |= run_graph(exact[role], pick(measured, signature.inputs))
    for entry, content in lower_all(exact, precisions, Calibration(calibrated, measured, ()), manifest):
        graphs.append(entry)
        files[entry.file] = content
    finished = msgspec.structs.replace(manifest, graphs=tuple(graphs), examples=tuple(examples), calibrated=tissue.seen)
    return write_bundle(out, finished, files)


def refuse_other_shapes(given: Samples, signature: Signature, source: str) -> None:
    """Raise BundleError for a network that gives, for one window, something else than its signature says."""
    for spec in signature.outputs:
        found, fitting = given[spec.name].shape, spec.sized(1)
        if found != fitting:
            raise BundleError(
                f"{source}: the network gives {spec.name} {list(found)}, its bundle means {list(fitting)}"
            )


def refuse_other(found: Samples, wanted: Samples, source: str) -> None:
    """Raise BundleError for a graph that does not compute what torch does."""
    for name, exact in wanted.items():
        off = float(np.abs(found[name] - exact).max())
        if not off <= TOLERANCES["fp32"].largest * max(1.0, float(np.abs(exact).max())):
            raise BundleError(f"{source}: the exported graph is off by {off:.2g} from what torch computes")


class Together:
    """Several networks' exact graphs, and what each gives for measured windows in each lower precision so far."""

    def __init__(self, exact: Mapping[Role, bytes], kind: Shared, measured: Samples) -> None:
        self._exact, self._kind, self._measured = exact, kind, measured
        self._given: dict[tuple[Precision, Target], dict[str, NDArray[Any]]] = {}

    def measure(self, role: Role, precision: Precision, target: Target) -> Measure | None:
        """How a network is measured: by what all give in the end, on what those before it give in its own precision;
        None for one alone.
        """
        if len(self._exact) == 1:
            return None
        given = {**self._measured, **self._given.get((precision, target), {})}
        after = list(self._exact)[list(self._exact).index(role) + 1 :]
        return Measure(
            pick(given, self._kind.networks[role].inputs),
            pick(self._measured, self._kind.whole.outputs),
            partial(self._finish, role, after),
            FLIPS_AIM / (1 + len(after)),
        )

    def note(self, entry: Graph, outputs: Samples) -> None:
        """Keep what a graph gives for those after it."""
        named = self._kind.networks[entry.role].name_outputs(outputs)
        self._given.setdefault((entry.precision, entry.target), {}).update(named)

    def _finish(self, role: Role, after: Sequence[Role], outputs: Samples) -> Samples:
        """What all give in the end where one gives these outputs, through the exact graphs after it."""
        known = {**self._measured, **self._kind.networks[role].name_outputs(outputs)}
        for later in after:
            network = self._kind.networks[later]
            known |= network.name_outputs(run_graph(self._exact[later], pick(known, network.inputs)))
        return pick(known, self._kind.whole.outputs)


def lower_all(
    exact: Mapping[Role, bytes], precisions: Sequence[Precision], tissue: Calibration, kind: Shared
) -> Iterator[tuple[Graph, bytes]]:
    """The wanted graphs of all networks beside the float32 ones, with their entries in the manifest.

    `tissue` holds what each of several networks gives too. Raises BundleError for a graph that loses too much.
    """
    together = Together(exact, kind, tissue.measured)
    for role, graph in exact.items():
        takes = kind.networks[role].inputs
        own = Calibration(pick(tissue.calibrated, takes), pick(tissue.measured, takes), ())
        in_int8 = together.measure(role, "int8", "cpu")
        for entry, content in lower_precisions(graph, precisions, own, kind, role, name_prefix(role), in_int8):
            measure = together.measure(role, entry.precision, entry.target)
            outputs = refuse_lossy(graph, entry, content, own.measured, kind, measure)
            if measure is not None:
                together.note(entry, outputs)
            yield entry, content


def name_prefix(role: Role) -> str:
    """How the files of a network begin."""
    return "" if role == "main" else f"{role}_"


def lower_precisions(
    exact: bytes,
    precisions: Sequence[Precision],
    tissue: Calibration,
    kind: Shared,
    role: Role = "main",
    prefix: str = "",
    measure: Measure | None = None,
) -> Iterator[tuple[Graph, bytes]]:
    """The wanted graphs beside the float32 one, int8 calibrated on tissue, with their entries in the manifest."""
    if "fp16" in precisions:
        content = to_float16(exact)
        yield describe_graph(f"{prefix}fp16.onnx", content, "fp16", "gpu", role=role), content
    if "int8" in precisions:
        made = to_int8(exact, tissue.calibrated, tissue.measured, kind, measure)
        for target, content in made.graphs.items():
            file, bits = f"{prefix}int8_{target}.onnx", WEIGHT_BITS[target]
            yield describe_graph(file, content, "int8", target, made.kept, bits, role), content


def refuse_lossy(
    exact: bytes, entry: Graph, content: bytes, measured: Samples, kind: Shared, measure: Measure | None = None
) -> Samples:
    """What a graph gives for `measured` windows that it was not made with; of one among several, for what those before
    it give in its own precision, and judged by what those after it make of that. Raises BundleError for one that loses
    more than its precision may.

    A graph for GPUs is run without any optimisation: its own arithmetic, not that of this processor's short cuts.
    """
    edges = edge_windows(kind.networks[entry.role].inputs)
    run = run_graph if entry.target == "cpu" else run_plainly
    given = measured if measure is None else measure.given
    outputs = run(content, join([given, edges]))
    own = take(outputs, slice(count(given)))
    if measure is None:
        found, wanted = outputs, run_graph(exact, join([measured, edges]))
    else:
        found, wanted = measure.finish(own), measure.wanted
    check = compare(found, wanted, count(given), MadeOn("", "ort", "", "CPU", "", entry.precision), None, kind)
    bad = sum(int(np.count_nonzero(~np.isfinite(values))) for values in outputs.values())
    aim = FLIPS_AIM if entry.precision == "int8" else TOLERANCES[entry.precision].flips
    turned = "" if check.cosine is None else f", the least cosine of features is {check.cosine:.4f}"
    if bad or check.flips > aim or not check.passed:
        raise BundleError(
            f"{entry.precision} for {entry.target} is not exported: {check.flips:.2%} of the places change class where "
            f"{aim:.2%} may, {' and '.join(wanted)} are off by {check.largest:.2g}{turned}, {bad} are no numbers; "
            f"{'calibrate on more of the tissue, or ' if entry.precision == 'int8' else ''}"
            f"leave {entry.precision} out of --precision"
        )
    return own


def describe_graph(
    file: str,
    content: bytes,
    precision: Precision = "fp32",
    target: Target = "any",
    kept_float: tuple[str, ...] = (),
    weight_bits: Literal[7, 8] | None = None,
    role: Role = "main",
) -> Graph:
    """A graph's entry in the manifest."""
    sha256 = hashlib.sha256(content).hexdigest()
    return Graph(file, sha256, precision, role, target, kept_float, weight_bits)
