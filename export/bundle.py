"""A run folder -> a bundle folder."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
from glassrt.export.kinds import dual, segmentation
from glassrt.export.kinds.made import Made
from glassrt.export.precision import FLIPS_AIM, WEIGHT_BITS, run_graph, run_plainly, to_float16, to_int8
from glassrt.export.samples import Samples, count, each, join, pick, take
from glassrt.export.to_onnx import RawPixels, export_graph
from glassrt.training import checkpoint

Read = Callable[[Path, Mapping[str, Tensor], Mapping[str, str], str], Made]
READERS: dict[str, Read] = {  # by the method of a run
    "segment": segmentation.read,
    "oeem": segmentation.read,
    "da-refinenet": dual.read,
}


class Fed(NamedTuple):
    """Windows by name that networks are calibrated and measured on, with what the networks so far gave for them, and
    what these gave for the measured ones in each lower precision.
    """

    calibrated: dict[str, NDArray[Any]]
    measured: dict[str, NDArray[Any]]
    lossy: dict[tuple[Precision, Target], dict[str, NDArray[Any]]]


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
    """What torch makes of windows, each network given what those before it gave."""
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
    if "int8" in precisions and calibration is None:
        raise UsageError("int8 needs --calibration: a folder of slides or images of the bundle's tissue")
    networks, manifest = load_run(run, name)
    if calibration is None:
        painted = paint(manifest.inputs)
        tissue = Calibration(painted, painted, ())
    else:
        tissue = collect_calibration(calibration, manifest)
    files: dict[str, bytes] = {}
    graphs: list[Graph] = []
    examples: list[Example] = []
    fed = Fed(dict(tissue.calibrated), dict(tissue.measured), {})
    for role, network in networks.items():
        signature, prefix = manifest.networks[role], "" if role == "main" else f"{role}_"
        exact = export_graph(network, signature)
        calibrated, measured = (pick(each, signature.inputs) for each in (fed.calibrated, fed.measured))
        window = take(calibrated, slice(1))
        wanted = infer_exactly(network, signature, window)
        refuse_other(run_graph(exact, window), wanted, run)
        stored = store_example(Known(window, wanted))
        examples.append(Example(f"{prefix}example.npz", hashlib.sha256(stored).hexdigest(), role))
        graphs.append(describe_graph(f"{prefix}fp32.onnx", exact, role=role))
        files |= {examples[-1].file: stored, graphs[-1].file: exact}
        lower = Calibration(calibrated, measured, ())
        for entry, content in lower_precisions(exact, precisions, lower, manifest, role, prefix):
            lossy = fed.lossy.setdefault((entry.precision, entry.target), {})
            given = pick({**fed.measured, **lossy}, signature.inputs)
            lossy |= refuse_lossy(exact, entry, content, measured, given, manifest)
            graphs.append(entry)
            files[entry.file] = content
        if role != list(networks)[-1]:
            fed.calibrated.update(run_graph(exact, calibrated))
            fed.measured.update(run_graph(exact, measured))
    finished = msgspec.structs.replace(manifest, graphs=tuple(graphs), examples=tuple(examples), calibrated=tissue.seen)
    return write_bundle(out, finished, files)


def refuse_other(found: Samples, wanted: Samples, run: Path) -> None:
    """Raise BundleError for a graph that does not compute what torch does."""
    for name, exact in wanted.items():
        off = float(np.abs(found[name] - exact).max())
        if not off <= TOLERANCES["fp32"].largest * max(1.0, float(np.abs(exact).max())):
            raise BundleError(f"{run}: the exported graph is off by {off:.2g} from what torch computes")


def lower_precisions(
    exact: bytes,
    precisions: Sequence[Precision],
    tissue: Calibration,
    kind: Shared,
    role: Role = "main",
    prefix: str = "",
) -> Iterator[tuple[Graph, bytes]]:
    """The wanted graphs beside the float32 one, int8 calibrated on tissue, with their entries in the manifest."""
    if "fp16" in precisions:
        content = to_float16(exact)
        yield describe_graph(f"{prefix}fp16.onnx", content, "fp16", "gpu", role=role), content
    if "int8" in precisions:
        made = to_int8(exact, tissue.calibrated, tissue.measured, kind)
        for target, content in made.graphs.items():
            file, bits = f"{prefix}int8_{target}.onnx", WEIGHT_BITS[target]
            yield describe_graph(file, content, "int8", target, made.kept, bits, role), content


def refuse_lossy(
    exact: bytes, entry: Graph, content: bytes, measured: Samples, given: Samples, kind: Shared
) -> Samples:
    """What a graph gives for `measured` windows that it was not made with, of what those before it gave in its own
    precision the `given`; BundleError for one that loses more than its precision may.

    A graph for GPUs is run without any optimisation: its own arithmetic, not that of this processor's short cuts.
    """
    edges = edge_windows(kind.networks[entry.role].inputs)
    wanted = run_graph(exact, join([measured, edges]))
    run = run_graph if entry.target == "cpu" else run_plainly
    outputs = run(content, join([given, edges]))
    made_on = MadeOn("", "ort", "", "CPU", "", entry.precision)
    found = compare(outputs, wanted, count(measured), made_on, None, kind)
    aim = FLIPS_AIM if entry.precision == "int8" else TOLERANCES[entry.precision].flips
    if found.nan or found.flips > aim or not found.passed:
        raise BundleError(
            f"{entry.precision} for {entry.target} is not exported: {found.flips:.2%} of the pixels change class where "
            f"{aim:.2%} may, {' and '.join(wanted)} are off by {found.largest:.2g}, {found.nan} are no numbers; "
            f"{'calibrate on more of the tissue, or ' if entry.precision == 'int8' else ''}"
            f"leave {entry.precision} out of --precision"
        )
    return take(outputs, slice(count(measured)))


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
