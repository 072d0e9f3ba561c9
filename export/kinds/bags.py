"""Bundles for bags, of tiles or of features that were stored before, from a stage of a Distill-to-Label run."""

import colorsys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from torch import Tensor, nn

from glassrt.engine.bundles.kinds.mil import MOST_LEARNED, Mil
from glassrt.engine.bundles.parts import LONGEST_NAME, ClassInfo, Making
from glassrt.engine.errors import TrainingError
from glassrt.export.kinds.made import UNMADE, Made
from glassrt.export.kinds.segmentation import weights_licence
from glassrt.export.samples import Samples
from glassrt.training import checkpoint
from glassrt.training.bag_sets import CLASSES, SIDES, STORED, FoldConfig
from glassrt.training.datasets import crchisto, ucsb
from glassrt.training.networks.bag_head import Pooling
from glassrt.training.networks.extractors import LAYOUTS, Extractor
from glassrt.training.networks.mil import Design, MilNetwork

NEGATIVE = (200, 200, 200)
SEED = 1
GOLDEN = 0.618034  # of the circle of hues
USUAL_SIDE, USUAL_MPP = 256, 0.5  # of tiles, where the files of their features do not say it: no score depends on them
RESOLUTIONS = {"crchisto": crchisto.MPP, "ucsb": ucsb.MPP, "mnist-bags": 1.0}  # digits have none
LICENCES = {
    "crchisto": "Research only: trained on CRCHistoPhenotypes (Warwick), whose licence allows research use only.",
    "mnist-bags": "Trained on MNIST, which is free to use.",
    "ucsb": "Research only: trained on the UCSB Bio-Segmentation Benchmark.",
    STORED: "Trained on features of one's own slides; what the encoder's licence says of those holds too.",
}


class Learned(msgspec.Struct, kw_only=True):
    """Of the settings that a stage's model keeps, those that say what it is."""

    dataset: str
    encoder: str | None = None
    weights: str
    frozen_norm: bool
    pooling: Pooling
    attention: int
    schedule: dict[str, Any]
    folds: FoldConfig | None = None
    classes: tuple[str, ...] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """What bags are told apart as; the negative class is the first."""
        return self.classes or CLASSES[self.dataset]


class Tiles(nn.Module):
    """RGB tiles `[N, 3, H, W]` in 0..255 -> features `[N, d]`, scores `[N]`, logits `[N, 1 or C]`."""

    def __init__(self, network: MilNetwork) -> None:
        super().__init__()
        self.encoder, self.scorer = network.encoder, network.head.scorer

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.encoder(tiles)
        scores, logits = self.scorer(features)
        return features, scores, logits


class Head(nn.Module):
    """Features `[N, D]` -> scores `[N]`, logits `[N, 1 or C]`."""

    def __init__(self, network: MilNetwork) -> None:
        super().__init__()
        self.scorer = network.head.scorer

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        scores, logits = self.scorer(features)
        return scores, logits

    def draw(self) -> Samples:
        """A vector like those that it learned from, of a normal distribution with their mean and deviation."""
        mean, deviation = (values.numpy() for values in (self.scorer.feature_mean, self.scorer.feature_std))
        drawn = np.random.default_rng(SEED).normal(mean, deviation)
        return {"features": drawn.astype(np.float32)}


def read(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], name: str) -> Made:
    """A stage's network and the manifest of a bundle `name`. Raises TrainingError."""
    try:
        learned, stage = msgspec.json.decode(metadata["config"], type=Learned), metadata["stage"]
        making = msgspec.json.decode(metadata["making"], type=Making) if learned.dataset == STORED else None
    except (KeyError, msgspec.MsgspecError) as error:
        raise TrainingError(f"{file} was written by another version: train it again ({error})") from error
    length = None if making is None else tensors["head.scorer.feature_mean"].shape[1]
    design = Design(learned.encoder, length, learned.pooling, learned.attention, learned.frozen_norm)
    network = MilNetwork(len(learned.class_names), design)
    checkpoint.load_into(network, tensors, file)
    if making is not None:
        assert length is not None
        served: nn.Module = Head(network)
        manifest = describe_head(learned, stage, length, making, name)
    else:
        assert isinstance(network.encoder, Extractor)
        served, manifest = Tiles(network), describe(learned, stage, network.encoder.channels, name)
    known = tuple(metadata.get("learned_from", "").split())
    return Made(
        {"main": served}, msgspec.structs.replace(manifest, learned_from=known if len(known) <= MOST_LEARNED else ())
    )


def describe(learned: Learned, stage: str, features: int, name: str) -> Mil:
    """The manifest of what was trained so, but for graphs and examples."""
    assert learned.encoder is not None
    start = (
        ""
        if learned.encoder in LAYOUTS
        else f" Encoder started from {weights_licence(learned.weights, learned.encoder)}."
    )
    told = describe_bags(learned, stage, learned.encoder, SIDES[learned.dataset], RESOLUTIONS[learned.dataset], name)
    told["licence"] += start
    return Mil(**told, features=features)


def describe_head(learned: Learned, stage: str, features: int, making: Making, name: str) -> Mil:
    """The manifest of a head alone, whose tiles are those that the features were made of, if their files say it."""
    of = f"features by {making.encoder[:LONGEST_NAME]!r}" if making.encoder else "features"
    if making.side is None or making.mpp is None:
        of += " (their files do not say of which tiles)"
    told = describe_bags(learned, stage, of, making.side or USUAL_SIDE, making.mpp or USUAL_MPP, name)
    return Mil(**told, features=features, takes="features", made=making)


def describe_bags(learned: Learned, stage: str, of: str, side: int, mpp: float, name: str) -> dict[str, Any]:
    """What the manifests of both say: a network on what, of tiles of so many pixels and micrometres per pixel."""
    schedule, left_out = learned.schedule, ""
    if learned.folds:
        left_out = f", without fold {learned.folds.fold}:{learned.folds.seed}"
    bags = "own slides" if learned.dataset == STORED else learned.dataset
    return {
        "name": name,
        "classes": tuple(ClassInfo(each, choose_color(number)) for number, each in enumerate(learned.class_names)),
        "mpp": mpp,
        "window": side,
        "stride": side,
        "output_stride": side,
        "scales": (1.0,),
        "flips": False,
        "overlay": "heat",
        "pooling": learned.pooling,
        "graphs": UNMADE,
        "trained": f"{stage} of Distill-to-Label on {of}, {learned.pooling} pooling, bags of {bags}, "
        f"{schedule['steps']} steps of {schedule['batch']} bags, seed {schedule['seed']}{left_out}",
        "licence": LICENCES[learned.dataset],
    }


def choose_color(number: int) -> tuple[int, int, int]:
    """Grey for the negative class, red for the first other one, then hues as far apart as they can be."""
    if not number:
        return NEGATIVE
    red, green, blue = (round(200 * each) for each in colorsys.hsv_to_rgb((number - 1) * GOLDEN % 1, 0.8, 1))
    return red, green, blue
