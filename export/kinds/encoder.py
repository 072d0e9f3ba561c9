"""Bundles of encoders alone: a tile in, its features out, from public weights or a network of one's own."""

from torch import nn

from glassrt.engine.bundles.kinds.encoder import Encoder
from glassrt.engine.errors import TrainingError
from glassrt.export.kinds.made import UNMADE, Made
from glassrt.export.kinds.segmentation import weights_licence
from glassrt.training.networks.encoders import IMAGENET, PACKAGED, RANDOM, STRIDES, check_encoder, load_weights
from glassrt.training.networks.extractors import PooledEncoder


def build(encoder: str, weights: str, name: str, mpp: float, window: int) -> Made:
    """The mean of the last map of an encoder by name, for a bundle `name`; `weights` as of `encoders.load_weights`.

    `window` is in pixels of `mpp` micrometres. Raises TrainingError for what does not exist and for random weights,
    whose features say nothing.
    """
    if weights == RANDOM:
        raise TrainingError("an encoder of random weights says nothing of tiles: name a file of its weights")
    if weights == IMAGENET and encoder in STRIDES and encoder not in PACKAGED:
        raise TrainingError(f"no package ships ImageNet weights of {encoder}: name a file of its weights")
    check_encoder(encoder, max(STRIDES.get(encoder, (32,))), weights)
    network = PooledEncoder(encoder, frozen=True, learns=False)
    load_weights(network.encoder, encoder, weights)
    trained = f"{encoder} with {weights_licence(weights, encoder)}, the mean of its last map"
    return describe(network, network.channels, name, mpp, window, trained, weights_licence(weights, encoder))


def describe(network: nn.Module, features: int, name: str, mpp: float, window: int, trained: str, licence: str) -> Made:
    """Any network for a bundle `name`: RGB `[N, 3, window, window]` in 0..255 -> `[N, features]`, float32.

    `bundle.export_made` makes the bundle of it. `trained` and `licence` are what its manifest says of it in words.
    """
    manifest = Encoder(
        name=name, mpp=mpp, window=window, stride=window, features=features, graphs=UNMADE, trained=trained,
        licence=licence,
    )  # fmt: skip
    return Made({"main": network.eval()}, manifest)
