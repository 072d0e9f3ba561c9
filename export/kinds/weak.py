"""Segmentation bundles of runs that learned from slide labels: benign and malign, with scores of whole slides."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
from torch import Tensor

from glassrt.engine.bundles.kinds.segmentation import Segmentation
from glassrt.engine.bundles.parts import ClassInfo, SlideScoring
from glassrt.engine.errors import TrainingError
from glassrt.export.kinds.made import UNMADE, Made
from glassrt.export.kinds.segmentation import weights_licence
from glassrt.training import checkpoint
from glassrt.training.datasets import weak
from glassrt.training.mapping import MALIGN
from glassrt.training.methods import beta_kl
from glassrt.training.methods.beta_kl import BetaKlConfig

COLORS = ((200, 200, 200), (200, 40, 40))
SLIDE_ETA = 1.0  # percent of a slide: lesions may be small, where a patch around one is not
LICENCES = {
    "mosaic": "Research only: trained on GlaS (Warwick-QU), whose licence allows research use only.",
    "camelyon16": "Trained on CAMELYON16 (CC0).",
    "labels": "Trained on slides of one's own.",
}


def read(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], name: str) -> Made:
    """A run's network and the manifest of a bundle `name`. Raises TrainingError."""
    try:
        config = msgspec.json.decode(metadata["config"], type=BetaKlConfig)
    except (KeyError, msgspec.MsgspecError) as error:
        raise TrainingError(f"{file} was written by another version: train it again ({error})") from error
    network = beta_kl.build_network(config)
    checkpoint.load_into(network, tensors, file)
    return Made({"main": network}, describe(config, name))


def describe(config: BetaKlConfig, name: str) -> Segmentation:
    """The manifest of what was trained so, but for graphs and examples."""
    encoder = "separable convolutions" if config.encoder is msgspec.UNSET else config.encoder
    start = (
        ""
        if config.encoder is msgspec.UNSET
        else f" Encoder started from {weights_licence(config.weights, config.encoder)}."
    )
    beta = ", ".join(f"{each:.3g}" for each in config.betas)
    return Segmentation(
        name=name,
        classes=tuple(ClassInfo(each, color) for each, color in zip(weak.CLASSES, COLORS, strict=True)),
        mpp=config.mpp,
        window=config.window,
        stride=config.window * 4 // 5,
        output_stride=beta_kl.output_stride(config),
        scales=(1.0,),
        flips=False,
        slide_scores=SlideScoring(weak.CLASSES[MALIGN], SLIDE_ETA),
        overlay="heat",
        graphs=UNMADE,
        trained=f"U-Net of {encoder}, slide labels of {config.dataset} {config.split}, beta-KL with beta {beta}, "
        f"eta {config.eta:g} %, alpha {config.alpha:g}, {config.steps} steps of {config.batch} patches, "
        f"seed {config.seed}",
        licence=LICENCES[config.dataset] + start,
    )
