"""A run folder -> a bundle folder."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from glassrt.engine.bundles.bundle import Bundle, write_bundle
from glassrt.engine.bundles.checks import TOLERANCES
from glassrt.engine.bundles.example import Known, store_example
from glassrt.engine.bundles.manifest import Manifest
from glassrt.engine.bundles.parts import ClassInfo, Example, Graph, Precision, Target
from glassrt.engine.errors import BundleError, TrainingError, UsageError
from glassrt.export.calibration import Calibration, collect_calibration, paint_window
from glassrt.export.comparison import MadeOn, compare, edge_windows
from glassrt.export.precision import FLIPS_AIM, WEIGHT_BITS, run_graph, run_plainly, to_float16, to_int8
from glassrt.export.to_onnx import RawPixels, export_graph
from glassrt.training import checkpoint
from glassrt.training.datasets import glas
from glassrt.training.methods.segment import SegmentConfig, build_network
from glassrt.training.networks import encoders
from glassrt.training.networks.pspnet import PSPNet

COLORS = ((200, 200, 200), (30, 120, 220))
EXAMPLE = "example.npz"
PAPER_SCALES = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
METHODS = ("segment", "oeem")


class Trained(NamedTuple):
    """A finished run: its network, what it learned from, by which method, and where its labels came from."""

    network: PSPNet
    config: SegmentConfig
    method: str
    labels: str


def load_run(run: Path) -> Trained:
    """The finished run in folder `run`. Raises TrainingError."""
    file = run / "model.safetensors"
    tensors, metadata = checkpoint.load(file)
    method = metadata.get("method", "")
    if method not in METHODS:
        raise TrainingError(f"{file} was not written by `glassrt train {' or '.join(METHODS)}`: cannot be exported")
    try:
        config, labels = msgspec.json.decode(metadata["config"], type=SegmentConfig), metadata["labels"]
    except (KeyError, msgspec.MsgspecError) as error:
        raise TrainingError(f"{file} was written by another version: train it again ({error})") from error
    network = build_network(config)
    checkpoint.load_into(network, tensors, file)
    return Trained(network, config, method, labels)


def open_network(run: Path) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """What torch makes of windows `[n, H, W, 3]`: logits `[n, C, h, w]` of a finished run's network."""
    return partial(infer_exactly, load_run(run).network)


def infer_exactly(network: nn.Module, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits `[n, C, h, w]` of windows `[n, H, W, 3]` through torch."""
    served = RawPixels(network).eval()
    with torch.inference_mode():
        return np.concatenate([served(torch.from_numpy(window[None])).numpy() for window in windows])


def export_run(
    run: Path, out: Path, name: str, precisions: Sequence[Precision] = ("fp32",), calibration: Path | None = None
) -> Bundle:
    """Export the finished run in folder `run` to the bundle folder `out`, in float32 and other precisions.

    OEEM's bundles carry the scales and flips of its multi-scale test. `calibration` is the folder of slides and images
    that int8 is calibrated on and the bundle's example is taken from; without it the example is painted. Raises
    BundleError, TrainingError, UsageError or OutputError.
    """
    if "int8" in precisions and calibration is None:
        raise UsageError("int8 needs --calibration: a folder of slides or images of the bundle's tissue")
    network, config, method, labels = load_run(run)
    exact = export_graph(network, config.window)
    manifest = Manifest(
        name=name,
        classes=tuple(ClassInfo(each, color) for each, color in zip(glas.CLASSES, COLORS, strict=True)),
        mpp=glas.MPP,
        window=config.window,
        stride=config.window * 4 // 5,
        output_stride=config.output_stride,
        scales=PAPER_SCALES if method == "oeem" else (1.0,),
        flips=method == "oeem",
        graphs=(describe_graph("fp32.onnx", exact),),
        trained=f"PSPNet on {config.encoder} (weights: {Path(config.weights).name}), "
        f"{labels} of GlaS {config.split}, "
        f"{config.loss}, {config.steps} steps of {config.batch} crops, seed {config.seed}",
        licence="Research only: trained on GlaS (Warwick-QU), whose licence allows research use only. "
        f"Encoder started from {weights_licence(config)}.",
    )
    if calibration is None:
        painted = paint_window(config.window)
        tissue = Calibration(painted, painted, ())
    else:
        tissue = collect_calibration(calibration, manifest)
    logits = infer_exactly(network, tissue.calibrated[:1])
    off = float(np.abs(run_graph(exact, tissue.calibrated[:1]) - logits).max())
    if not off <= TOLERANCES["fp32"].largest * max(1.0, float(np.abs(logits).max())):
        raise BundleError(f"{run}: the exported graph is off by {off:.2g} from what torch computes")
    example = store_example(Known({"image": tissue.calibrated[:1]}, {"logits": logits}))
    files = {"fp32.onnx": exact, EXAMPLE: example}
    entries = list(manifest.graphs)
    for entry, content in lower_precisions(exact, precisions, tissue):
        refuse_lossy(exact, entry, content, tissue.measured)
        entries.append(entry)
        files[entry.file] = content
    pinned = Example(EXAMPLE, hashlib.sha256(example).hexdigest())
    finished = msgspec.structs.replace(manifest, graphs=tuple(entries), examples=(pinned,), calibrated=tissue.seen)
    return write_bundle(out, finished, files)


def lower_precisions(
    exact: bytes, precisions: Sequence[Precision], tissue: Calibration
) -> Iterator[tuple[Graph, bytes]]:
    """The wanted graphs beside the float32 one, int8 calibrated on tissue, with their entries in the manifest."""
    if "fp16" in precisions:
        content = to_float16(exact)
        yield describe_graph("fp16.onnx", content, "fp16", "gpu"), content
    if "int8" in precisions:
        made = to_int8(exact, tissue.calibrated, tissue.measured)
        for target, content in made.graphs.items():
            file = f"int8_{target}.onnx"
            yield describe_graph(file, content, "int8", target, made.kept, WEIGHT_BITS[target]), content


def refuse_lossy(exact: bytes, entry: Graph, content: bytes, measured: NDArray[np.uint8]) -> None:
    """Raise BundleError for a graph that loses more than its precision may, on windows that it was not made with.

    A graph for GPUs is run without any optimisation: its own arithmetic, not that of this processor's short cuts.
    """
    windows = np.concatenate([measured, edge_windows(measured.shape[1])])
    wanted = run_graph(exact, windows)
    logits = run_graph(content, windows) if entry.target == "cpu" else run_plainly(content, windows)
    made_on = MadeOn("", "ort", "", "CPU", "", entry.precision)
    found = compare(logits, wanted, len(measured), made_on, None)
    aim = FLIPS_AIM if entry.precision == "int8" else TOLERANCES[entry.precision].flips
    if found.nan or found.flips > aim or not found.passed:
        raise BundleError(
            f"{entry.precision} for {entry.target} is not exported: {found.flips:.2%} of the pixels change class where "
            f"{aim:.2%} may, logits are off by {found.largest:.2g}, {found.nan} are no numbers; "
            f"{'calibrate on more of the tissue, or ' if entry.precision == 'int8' else ''}"
            f"leave {entry.precision} out of --precision"
        )


def describe_graph(
    file: str,
    content: bytes,
    precision: Precision = "fp32",
    target: Target = "any",
    kept_float: tuple[str, ...] = (),
    weight_bits: Literal[7, 8] | None = None,
) -> Graph:
    """A graph's entry in the manifest."""
    sha256 = hashlib.sha256(content).hexdigest()
    return Graph(file, sha256, precision, target=target, kept_float=kept_float, weight_bits=weight_bits)


def weights_licence(config: SegmentConfig) -> str:
    """Where the encoder's first weights came from, and what allows their use."""
    if config.weights == encoders.IMAGENET:
        return "EfficientNet-Lite0 ImageNet weights (Apache-2.0)"
    if config.weights == encoders.RANDOM:
        return "random weights"
    return f"the weights in {Path(config.weights).name}, whose own licence applies"
