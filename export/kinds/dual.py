"""Dual-input bundles, from runs of DA-RefineNet; segmentation bundles from those of its single-input control."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from glassrt.engine.bundles.kinds.dual import Dual, Feature
from glassrt.engine.bundles.kinds.segmentation import Segmentation
from glassrt.engine.bundles.parts import ClassInfo
from glassrt.engine.errors import TrainingError
from glassrt.export.kinds.made import UNMADE, Made
from glassrt.training import checkpoint
from glassrt.training.methods.da_refinenet import SETS, DaRefineNetConfig, build_network
from glassrt.training.networks import encoders
from glassrt.training.networks.refinenet import OUTPUT_STRIDE, ContextNet

COLORS = ((200, 200, 200), (60, 160, 75), (240, 170, 40), (200, 40, 40))
LICENCES = {
    "mosaic": "Research only: trained on GlaS (Warwick-QU), whose licence allows research use only.",
    "bach": "Research only: trained on BACH (ICIAR 2018), whose own licence applies.",
}
STRIDES = (32, 16, 8, 4)  # of the levels, coarse to fine


def read(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], name: str) -> Made:
    """A run's networks and the manifest of a bundle `name`. Raises TrainingError."""
    try:
        config = msgspec.json.decode(metadata["config"], type=DaRefineNetConfig)
    except (KeyError, msgspec.MsgspecError) as error:
        raise TrainingError(f"{file} was written by another version: train it again ({error})") from error
    network = build_network(config).eval()
    checkpoint.load_into(network, tensors, file)
    if network.context is None:
        return Made({"main": network.fine}, Segmentation(**describe(config, name)))
    manifest = Dual(
        **describe(config, name),
        context_side=config.context_side,
        context_factor=config.factor,
        context_anchor=config.anchor,
        features=describe_features(network.context, config.context_side),
        placed=config.align == "footprint",
    )
    return Made({"context": network.context, "fine": network.fine}, manifest)


def describe_features(network: ContextNet, side: int) -> tuple[Feature, ...]:
    """What the context network hands to the fine one, a feature a level."""
    with torch.inference_mode():
        features = network(torch.zeros(1, 3, side, side))
    return tuple(
        Feature(f"context_{stride}", tuple(each.shape[1:])) for stride, each in zip(STRIDES, features, strict=True)
    )


def describe(config: DaRefineNetConfig, name: str) -> dict[str, Any]:
    """What the manifest of either kind says, but for graphs and examples."""
    classes = SETS[config.dataset].CLASSES
    return {
        "name": name,
        "classes": tuple(ClassInfo(each, color) for each, color in zip(classes, COLORS, strict=True)),
        "mpp": config.mpp,
        "window": config.window,
        "stride": config.window * 4 // 5,
        "output_stride": OUTPUT_STRIDE,
        "scales": (1.0,),
        "flips": False,
        "graphs": UNMADE,
        "trained": f"DA-RefineNet on {describe_networks(config)}, masks of {config.dataset} {config.split}, "
        f"{config.steps} steps of {config.batch * config.windows} windows, seed {config.seed}",
        "licence": f"{LICENCES[config.dataset]} Encoders started from {describe_start(config)}.",
    }


def describe_networks(config: DaRefineNetConfig) -> str:
    """The encoders with their weights, and how they are fused."""
    fine = f"{config.encoder} (weights: {Path(config.weights).name})"
    if config.context == "none":
        return f"{fine} alone"
    context = f"{config.context_encoder} (weights: {Path(config.context_weights).name}) of {config.context}"
    light = ", light blocks" if config.light else ""
    return f"{fine} and {context}, fusion {config.fusion}, align {config.align}{light}"


def describe_start(config: DaRefineNetConfig) -> str:
    """Where the encoders' first weights came from, and what allows their use."""
    sources = {config.weights} if config.context == "none" else {config.weights, config.context_weights}
    told = {
        encoders.IMAGENET: "EfficientNet-Lite0 ImageNet weights (Apache-2.0)",
        encoders.RANDOM: "random weights",
    }
    return " and ".join(
        told.get(source, f"the weights in {Path(source).name}, whose own licence applies") for source in sorted(sources)
    )
