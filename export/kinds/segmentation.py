"""Segmentation bundles, from runs that trained on masks or pseudo-masks of GlaS."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
from torch import Tensor

from glassrt.engine.bundles.kinds.segmentation import Segmentation
from glassrt.engine.bundles.parts import ClassInfo
from glassrt.engine.errors import TrainingError
from glassrt.export.kinds.made import UNMADE, Made
from glassrt.training import checkpoint
from glassrt.training.datasets import glas
from glassrt.training.methods.segment import SegmentConfig, build_network
from glassrt.training.networks import encoders

COLORS = ((200, 200, 200), (30, 120, 220))
PAPER_SCALES = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
OEEM = "oeem"
GLAND = glas.CLASSES[1]
LICENCE = "Research only: trained on GlaS (Warwick-QU), whose licence allows research use only."


def read(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], name: str) -> Made:
    """A run's network and the manifest of a bundle `name`; OEEM's has the scales and flips of its multi-scale test.

    Raises TrainingError.
    """
    try:
        config, labels = msgspec.json.decode(metadata["config"], type=SegmentConfig), metadata["labels"]
    except (KeyError, msgspec.MsgspecError) as error:
        raise TrainingError(f"{file} was written by another version: train it again ({error})") from error
    network = build_network(config)
    checkpoint.load_into(network, tensors, file)
    return Made({"main": network}, describe(config, metadata["method"], labels, name))


def describe(config: SegmentConfig, method: str, labels: str, name: str) -> Segmentation:
    """The manifest of what was trained so, but for graphs and examples."""
    return Segmentation(
        name=name,
        classes=tuple(ClassInfo(each, color) for each, color in zip(glas.CLASSES, COLORS, strict=True)),
        mpp=config.mpp or glas.MPP,
        window=config.window,
        stride=config.window * 4 // 5,
        output_stride=config.output_stride,
        scales=PAPER_SCALES if method == OEEM else (1.0,),
        flips=method == OEEM,
        contour_of=GLAND if config.contour_um else msgspec.UNSET,
        smallest_um2=config.smallest_um2,
        graphs=UNMADE,
        trained=f"{config.design.name} on {config.encoder} (weights: {Path(config.weights).name}), "
        f"{labels} of GlaS {config.split}, "
        f"{config.loss}, {config.steps} steps of {config.batch} crops, seed {config.seed}",
        licence=f"{LICENCE} Encoder started from {weights_licence(config.weights, config.encoder)}.",
    )


def weights_licence(weights: str, encoder: str) -> str:
    """Where an encoder's first weights came from, and what allows their use."""
    if weights == encoders.IMAGENET:
        return f"EfficientNet-Lite{encoder[-1]} ImageNet weights (Apache-2.0)"
    if weights == encoders.RANDOM:
        return "random weights"
    return f"the weights in {Path(weights).name}, whose own licence applies"
