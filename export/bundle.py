"""A run folder -> a bundle folder."""

import hashlib
from pathlib import Path

import msgspec

from glassrt.engine.bundle import Bundle, ClassInfo, Graph, Manifest, write_bundle
from glassrt.engine.errors import TrainingError
from glassrt.export.to_onnx import export_graph
from glassrt.training import checkpoint
from glassrt.training.datasets import glas
from glassrt.training.methods.segment import SegmentConfig
from glassrt.training.networks.pspnet import PSPNet

GRAPH_FILE = "fp32.onnx"
COLORS = ((200, 200, 200), (30, 120, 220))


def export_run(run: Path, out: Path, name: str) -> Bundle:
    """Export the finished run in folder `run` to the bundle folder `out`. Raises TrainingError or OutputError."""
    file = run / "model.safetensors"
    tensors, metadata = checkpoint.load(file)
    if metadata.get("method") != "segment":
        raise TrainingError(f"{file} was not written by `glassrt train segment`: it cannot be exported")
    config = msgspec.json.decode(metadata["config"], type=SegmentConfig)
    network = PSPNet(len(glas.CLASSES), config.encoder, config.output_stride)
    checkpoint.load_into(network, tensors, file)
    graph = export_graph(network, config.crop)
    manifest = Manifest(
        format=1,
        kind="segmentation",
        name=name,
        classes=tuple(ClassInfo(each, color) for each, color in zip(glas.CLASSES, COLORS, strict=True)),
        mpp=glas.MPP,
        window=config.crop,
        stride=config.crop * 4 // 5,
        output_stride=config.output_stride,
        scales=(1.0,),
        flips=False,
        graphs=(Graph(GRAPH_FILE, hashlib.sha256(graph).hexdigest()),),
        trained=f"PSPNet on {config.encoder} (ImageNet), full masks of GlaS {config.split}, {config.steps} steps "
        f"of {config.batch} windows, seed {config.seed}",
        licence="Research only: trained on GlaS (Warwick-QU), whose licence allows research use only. "
        "Encoder started from EfficientNet-Lite0 ImageNet weights (Apache-2.0).",
    )
    return write_bundle(out, manifest, {GRAPH_FILE: graph})
