"""Bundles for bags of tiles, from a stage of a Distill-to-Label run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor, nn

from glassrt.engine.bundles.kinds.mil import Mil
from glassrt.engine.bundles.parts import ClassInfo
from glassrt.engine.errors import TrainingError
from glassrt.export.kinds.made import UNMADE, Made
from glassrt.export.kinds.segmentation import weights_licence
from glassrt.training import checkpoint
from glassrt.training.bag_sets import CLASSES, SIDES, FoldConfig
from glassrt.training.datasets import crchisto, ucsb
from glassrt.training.networks.bag_head import Pooling
from glassrt.training.networks.extractors import LAYOUTS, Extractor
from glassrt.training.networks.mil import Design, MilNetwork

COLORS = ((200, 200, 200), (200, 40, 40))
RESOLUTIONS = {"crchisto": crchisto.MPP, "ucsb": ucsb.MPP, "mnist-bags": 1.0}  # digits have none
LICENCES = {
    "crchisto": "Research only: trained on CRCHistoPhenotypes (Warwick), whose licence allows research use only.",
    "mnist-bags": "Trained on MNIST, which is free to use.",
    "ucsb": "Research only: trained on the UCSB Bio-Segmentation Benchmark.",
}


class Learned(msgspec.Struct, kw_only=True):
    """Of the settings that a stage's model keeps, those that say what it is."""

    dataset: str
    encoder: str
    weights: str
    frozen_norm: bool
    pooling: Pooling
    attention: int
    schedule: dict[str, Any]
    folds: FoldConfig | None = None


class Tiles(nn.Module):
    """RGB tiles `[N, 3, H, W]` in 0..255 -> features `[N, d]`, scores `[N]`, logits `[N, 1 or C]`."""

    def __init__(self, network: MilNetwork) -> None:
        super().__init__()
        self.encoder, self.scorer = network.encoder, network.head.scorer

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.encoder(tiles)
        scores, logits = self.scorer(features)
        return features, scores, logits


def read(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], name: str) -> Made:
    """A stage's network and the manifest of a bundle `name`. Raises TrainingError."""
    try:
        learned, stage = msgspec.json.decode(metadata["config"], type=Learned), metadata["stage"]
    except (KeyError, msgspec.MsgspecError) as error:
        raise TrainingError(f"{file} was written by another version: train it again ({error})") from error
    design = Design(learned.encoder, None, learned.pooling, learned.attention, learned.frozen_norm)
    network = MilNetwork(len(CLASSES[learned.dataset]), design)
    checkpoint.load_into(network, tensors, file)
    assert isinstance(network.encoder, Extractor)
    return Made({"main": Tiles(network)}, describe(learned, stage, network.encoder.channels, name))


def describe(learned: Learned, stage: str, features: int, name: str) -> Mil:
    """The manifest of what was trained so, but for graphs and examples."""
    start = "" if learned.encoder in LAYOUTS else f" Encoder started from {weights_licence(learned.weights)}."
    side = SIDES[learned.dataset]
    left_out = f", without fold {learned.folds.fold}:{learned.folds.seed}" if learned.folds else ""
    return Mil(
        name=name,
        classes=tuple(ClassInfo(each, color) for each, color in zip(CLASSES[learned.dataset], COLORS, strict=True)),
        mpp=RESOLUTIONS[learned.dataset],
        window=side,
        stride=side,
        output_stride=side,
        scales=(1.0,),
        flips=False,
        overlay="heat",
        features=features,
        pooling=learned.pooling,
        graphs=UNMADE,
        trained=f"{stage} of Distill-to-Label on {learned.encoder}, {learned.pooling} pooling, bags of "
        f"{learned.dataset}, {learned.schedule['steps']} steps of {learned.schedule['batch']} bags, "
        f"seed {learned.schedule['seed']}{left_out}",
        licence=LICENCES[learned.dataset] + start,
    )
