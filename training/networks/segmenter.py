"""The networks that segmentation chooses from, by what a configuration says of them."""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from glassrt.engine.errors import TrainingError
from glassrt.training import checkpoint
from glassrt.training.config import Strict
from glassrt.training.networks.encoders import check_encoder, load_weights
from glassrt.training.networks.fpn import ENCODER_STRIDE, FPN
from glassrt.training.networks.fpn import STRIDES as FPN_STRIDES
from glassrt.training.networks.pspnet import PSPNet

Segmenter = PSPNet | FPN
NAMES = {"pspnet": "PSPNet", "fpn": "FPN"}
WIDTH = 64  # channels of an FPN
PSPNET_STRIDES = (8, 16, 32)


class Design(Strict, frozen=True, kw_only=True):
    """A network, but for its classes. `width` are the channels of an FPN's maps. With `whole` the `weights` are the
    model of a run of the same network, all of which is taken.
    """

    network: Literal["pspnet", "fpn"] | UnsetType = UNSET  # unset: pspnet
    encoder: str
    weights: str = "imagenet"  # or "random", or a file
    whole: bool | UnsetType = UNSET
    output_stride: Literal[4, 8, 16, 32]
    width: Annotated[int, Meta(ge=8, le=1024, multiple_of=8)] | UnsetType = UNSET

    @property
    def name(self) -> str:
        """As people call it."""
        return NAMES[self.network or "pspnet"]

    def check(self) -> None:
        """Raise TrainingError unless the network can be built and start from its weights."""
        strides = FPN_STRIDES if self.network == "fpn" else PSPNET_STRIDES
        if self.output_stride not in strides:
            told = ", ".join(map(str, strides))
            raise TrainingError(f"output_stride {self.output_stride}: the network {self.name} runs at {told}")
        if self.width and self.network != "fpn":
            raise TrainingError(f"width is of an FPN's maps: leave it out, or set network to fpn, not {self.name}")
        if self.whole and not Path(self.weights).is_file():
            raise TrainingError(f"whole: weights {self.weights!r} is no model of a run, such as RUN/model.safetensors")
        check_encoder(self.encoder, ENCODER_STRIDE if self.network == "fpn" else self.output_stride, self.weights)

    def build(self, classes: int) -> Segmenter:
        """The network, with random weights."""
        if self.network == "fpn":
            return FPN(classes, self.encoder, self.output_stride, self.width or WIDTH)
        return PSPNet(classes, self.encoder, self.output_stride)

    def start(self, classes: int) -> Segmenter:
        """The network, with the weights that it starts from."""
        network = self.build(classes)
        if self.whole:
            checkpoint.load_into(network, checkpoint.load(Path(self.weights))[0], Path(self.weights))
        else:
            load_weights(network.encoder, self.encoder, self.weights)
        return network
