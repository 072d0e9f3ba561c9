"""A run folder -> a bundle folder."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from glassrt.engine.bundle import Bundle, ClassInfo, Graph, Manifest, Precision, Target, write_bundle
from glassrt.engine.errors import TrainingError, UsageError
from glassrt.export.calibration import collect_windows
from glassrt.export.precision import to_float16, to_int8
from glassrt.export.to_onnx import RawPixels, export_graph
from glassrt.training import checkpoint
from glassrt.training.datasets import glas
from glassrt.training.methods.segment import SegmentConfig, build_network
from glassrt.training.networks import encoders
from glassrt.training.networks.pspnet import PSPNet

COLORS = ((200, 200, 200), (30, 120, 220))


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
    network = RawPixels(load_run(run).network).eval()

    def infer(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.concatenate([network(torch.from_numpy(window[None])).numpy() for window in windows])

    return infer


def export_run(
    run: Path, out: Path, name: str, precisions: Sequence[Precision] = ("fp32",), calibration: Path | None = None
) -> Bundle:
    """Export the finished run in folder `run` to the bundle folder `out`, in float32 and other precisions.

    OEEM's bundles carry the scales and flips of its multi-scale test. `calibration` is the folder of slides and images
    that int8 is calibrated on. Raises TrainingError, UsageError or OutputError.
    """
    network, config, method, labels = load_run(run)
    exact = export_graph(network, config.window)
    manifest = Manifest(
        format=1,
        kind="segmentation",
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
    graphs = {"fp32.onnx": exact}
    entries = list(manifest.graphs)
    for entry, content in lower_precisions(exact, manifest, precisions, calibration):
        entries.append(entry)
        graphs[entry.file] = content
    return write_bundle(out, msgspec.structs.replace(manifest, graphs=tuple(entries)), graphs)


def lower_precisions(
    exact: bytes, manifest: Manifest, precisions: Sequence[Precision], calibration: Path | None
) -> Iterator[tuple[Graph, bytes]]:
    """The wanted graphs beside the float32 one, with their entries in the manifest. Raises UsageError."""
    if "int8" in precisions and calibration is None:
        raise UsageError("int8 needs --calibration: a folder of slides or images of the bundle's tissue")
    if "fp16" in precisions:
        content = to_float16(exact)
        yield describe_graph("fp16.onnx", content, "fp16", "gpu"), content
    if "int8" in precisions and calibration is not None:
        made = to_int8(exact, collect_windows(calibration, manifest))
        for target, content in made.graphs.items():
            yield describe_graph(f"int8_{target}.onnx", content, "int8", target, made.kept), content


def describe_graph(
    file: str, content: bytes, precision: Precision = "fp32", target: Target = "any", kept_float: tuple[str, ...] = ()
) -> Graph:
    """A graph's entry in the manifest."""
    return Graph(file, hashlib.sha256(content).hexdigest(), precision, target=target, kept_float=kept_float)


def weights_licence(config: SegmentConfig) -> str:
    """Where the encoder's first weights came from, and what allows their use."""
    if config.weights == encoders.IMAGENET:
        return "EfficientNet-Lite0 ImageNet weights (Apache-2.0)"
    if config.weights == encoders.RANDOM:
        return "random weights"
    return f"the weights in {Path(config.weights).name}, whose own licence applies"
