"""Bundles that tell tiles apart, from runs that trained classifiers of patches."""

import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import UNSET
from torch import Tensor

from glassrt.engine.bundles.kinds.classification import MOST_LEARNED, Classification
from glassrt.engine.bundles.parts import ClassInfo
from glassrt.engine.errors import TrainingError
from glassrt.export.kinds.bags import choose_color
from glassrt.export.kinds.made import UNMADE, Made
from glassrt.export.kinds.segmentation import weights_licence
from glassrt.training import checkpoint
from glassrt.training.methods import transfer
from glassrt.training.methods.transfer import TransferConfig

LOGGER = logging.getLogger("glassrt")

LICENCES = {
    "kather": "Trained on Kather-5000 (CC BY 4.0).",
    "pcam": "Trained on PatchCamelyon (CC0).",
    "nuclei": "Research only: trained on CRCHistoPhenotypes, whose licence allows research use only.",
    "folders": "Trained on patches of one's own.",
}
NATURAL = "labels of PASCAL VOC 2012, whose images have the terms of Flickr"


def read(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], name: str) -> Made:
    """A run's network and the manifest of a bundle `name`. Raises TrainingError."""
    try:
        config = msgspec.json.decode(metadata["config"], type=TransferConfig)
        classes, sources = (msgspec.json.decode(metadata[key], type=list[str]) for key in ("classes", "learned_from"))
        mpp = float(metadata["mpp"])
    except (KeyError, ValueError, msgspec.MsgspecError) as error:
        raise TrainingError(f"{file} was written by another version: train it again ({error})") from error
    network = transfer.build_network(config, len(classes))
    checkpoint.load_into(network, tensors, file)
    return Made({"main": network}, describe(config, classes, sources, mpp, name))


def describe(config: TransferConfig, classes: list[str], sources: list[str], mpp: float, name: str) -> Classification:
    """The manifest of what was trained so, but for graphs and examples. `mpp` is that of the window."""
    each = "all patches"
    if config.examples is not UNSET:
        each = f"{config.examples} patches of each class (subset {config.subset})"
    if len(sources) > MOST_LEARNED:
        LOGGER.warning("%s learned from %d slides, more than a bundle names: it cannot tell them", name, len(sources))
    start = weights_licence(config.weights, config.encoder)
    if config.pretraining is not UNSET:
        start = f"{config.pretraining.task} of {NATURAL} ({start} before)"
    return Classification(
        name=name,
        classes=tuple(ClassInfo(called, choose_color(number)) for number, called in enumerate(classes)),
        mpp=mpp,
        window=config.window,
        stride=config.window,
        output_stride=config.window,
        scales=(1.0,),
        flips=False,
        learned_from=tuple(sources) if len(sources) <= MOST_LEARNED else (),
        graphs=UNMADE,
        trained=f"{config.encoder} on {each} of {config.dataset} {config.split}, "
        f"{config.steps} steps of {config.batch}, seed {config.seed}",
        licence=f"{LICENCES[config.dataset]} Encoder started from {start}.",
    )
