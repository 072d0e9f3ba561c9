"""A run folder -> a bundle folder."""

import hashlib
from pathlib import Path

import msgspec

from glassrt.engine.bundle import Bundle, ClassInfo, Graph, Manifest, write_bundle
from glassrt.engine.errors import TrainingError
from glassrt.export.to_onnx import export_graph
from glassrt.training import checkpoint
from glassrt.training.datasets import glas
from glassrt.training.methods.segment import SegmentConfig, build_network
from glassrt.training.networks import encoders

GRAPH_FILE = "fp32.onnx"
COLORS = ((200, 200, 200), (30, 120, 220))


PAPER_SCALES = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
METHODS = ("segment", "oeem")


def export_run(run: Path, out: Path, name: str) -> Bundle:
    """Export the finished run in folder `run` to the bundle folder `out`. Raises TrainingError or OutputError.

    OEEM's bundles carry the scales and flips of its multi-scale test.
    """
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
    graph = export_graph(network, config.window)
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
        graphs=(Graph(GRAPH_FILE, hashlib.sha256(graph).hexdigest()),),
        trained=f"PSPNet on {config.encoder} (weights: {Path(config.weights).name}), "
        f"{labels} of GlaS {config.split}, "
        f"{config.loss}, {config.steps} steps of {config.batch} crops, seed {config.seed}",
        licence="Research only: trained on GlaS (Warwick-QU), whose licence allows research use only. "
        f"Encoder started from {weights_licence(config)}.",
    )
    return write_bundle(out, manifest, {GRAPH_FILE: graph})


def weights_licence(config: SegmentConfig) -> str:
    """Where the encoder's first weights came from, and what allows their use."""
    if config.weights == encoders.IMAGENET:
        return "EfficientNet-Lite0 ImageNet weights (Apache-2.0)"
    if config.weights == encoders.RANDOM:
        return "random weights"
    return f"the weights in {Path(config.weights).name}, whose own licence applies"
