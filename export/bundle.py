"""A run folder -> a bundle folder."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from glassrt.engine.bundles.bundle import Bundle, write_bundle
from glassrt.engine.bundles.checks import TOLERANCES
from glassrt.engine.bundles.example import Known, store_example
from glassrt.engine.bundles.manifest import Manifest
from glassrt.engine.bundles.parts import Example, Graph, Precision, Role
from glassrt.engine.bundles.tensors import Signature
from glassrt.engine.errors import BundleError, TrainingError, UsageError
from glassrt.export.calibration import Calibration, collect_calibration, paint
from glassrt.export.kinds import bags, distilled, dual, patches, segmentation, weak
from glassrt.export.kinds.made import Made
from glassrt.export.lowering import describe_graph, lower_all, name_prefix
from glassrt.export.precision import run_graph
from glassrt.export.samples import Samples, each, join, pick, take
from glassrt.export.to_onnx import RawPixels, export_graph
from glassrt.training import checkpoint

Read = Callable[[Path, Mapping[str, Tensor], Mapping[str, str], str], Made]
READERS: dict[str, Read] = {  # by the method of a run
    "segment": segmentation.read,
    "oeem": segmentation.read,
    "distil": distilled.read,
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
