"""The modified U-Net that beta-KL trains, and the auto-encoder it starts from.

Source: "Weakly Supervised Training of Pixel Resolution Segmentation Models on Whole Slide Images", section 4. Skips
from encoder to decoder are added through a 1x1 convolution each, not concatenated: without them the same decoder is
the auto-encoder's, so that its weights fit as they are.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.engine.errors import TrainingError
from glassrt.training.networks.encoded import Encoded
from glassrt.training.networks.encoders import build_encoder
from glassrt.training.networks.separable import ResidualBlock, SeparableEncoder, projection

ENCODER_STRIDE = 4  # of the finest map that encoders by name show


class Design(NamedTuple):
    """What a network is made of.

    `filters` are the channels of the finest level; each coarser one has twice as many. `encoder` None is the paper's,
    with so many `poolings`; a name of `encoders` takes its place and shows four maps, whatever `poolings` says.
    `frozen` encoders keep their batch norm's statistics; one that does not learn keeps all that it starts with.
    """

    filters: int = 32
    poolings: int = 4
    encoder: str | None = None
    frozen: bool = False
    encoder_learns: bool = True


class Rise(nn.Module):
    """One level up: the decoded map at twice its size, the finer one added to it if `lateral`, and a block over both.

    `coarser`, `finer` and `width` are the channels of the decoded map, of the encoder's and of the result.
    """

    def __init__(self, coarser: int, finer: int, width: int, lateral: bool) -> None:
        super().__init__()
        self.reduce = projection(coarser, width)
        self.lateral = nn.Conv2d(finer, width, 1, bias=False) if lateral else None
        self.refine = ResidualBlock(width, width)

    def forward(self, decoded: Tensor, fine: Tensor) -> Tensor:
        # By a factor, not to a size: the graph then has no size to compute while it runs.
        x = F.interpolate(self.reduce(decoded), scale_factor=2, mode="bilinear", align_corners=False)
        refined: Tensor = self.refine(x if self.lateral is None else x + self.lateral(fine))
        return refined


class EncoderDecoder(Encoded):
    """RGB `[N, 3, H, W]` in 0..255 -> features `[N, filters, H / stride, W / stride]` by `decode`.

    H and W are multiples of `multiple`, the coarsest map's stride: 2^poolings, 32 for encoders by name. Raises
    TrainingError for an encoder that does not exist, `decode` ValueError for other sizes.
    """

    def __init__(self, design: Design, lateral: bool) -> None:
        name = design.encoder
        encoder = build_encoder(name, 32) if name else SeparableEncoder(design.filters, design.poolings)
        super().__init__(encoder, design.frozen, design.encoder_learns)
        self.design = design
        self.output_stride = ENCODER_STRIDE if name else 1
        coarser = encoder.channels[-1]
        rises = []
        for level, finer in reversed(list(enumerate(encoder.channels[:-1]))):
            rises.append(Rise(coarser, finer, width := design.filters * 2**level, lateral))
            coarser = width
        self.rises = nn.ModuleList(rises)
        self.multiple = self.output_stride * 2 ** len(rises)

    def decode(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if height % self.multiple or width % self.multiple:
            raise ValueError(f"{width} x {height} px: the network needs multiples of {self.multiple}")
        *finer, decoded = self.encode(x)
        for rise, fine in zip(self.rises, reversed(finer), strict=True):
            decoded = rise(decoded, fine)
        return decoded


class AutoEncoder(EncoderDecoder):
    """The U-Net without lateral skips: RGB `[N, 3, H, W]` in 0..255 -> what `normalise` makes of it, rebuilt.

    It learns by the mean square of what its result and `normalise(x)` differ by. Raises TrainingError where the design
    names an encoder: it would give its map at a stride of 4.
    """

    def __init__(self, design: Design) -> None:
        if design.encoder is not None:
            raise TrainingError(f"an auto-encoder of {design.encoder} cannot rebuild pixels: leave `encoder` out")
        super().__init__(design, lateral=False)
        self.rebuild = nn.Conv2d(design.filters, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        rebuilt: Tensor = self.rebuild(self.decode(x))
        return rebuilt


class UNet(EncoderDecoder):
    """RGB `[N, 3, H, W]` in 0..255 -> logits `[N, classes, H, W]`, or at a stride of 4 with an encoder by name."""

    def __init__(self, classes: int, design: Design) -> None:
        super().__init__(design, lateral=True)
        self.classify = nn.Conv2d(design.filters, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.decode(x))
        return logits

    def start_from(self, source: AutoEncoder) -> None:
        """Take the encoder and decoder of an auto-encoder, statistics of batch norm included; silence lateral skips.

        Features are then exactly the auto-encoder's, and the skips learn from the first step on. Raises TrainingError
        where the designs differ.
        """
        shapes = [(each.encoder, each.filters, each.poolings) for each in (self.design, source.design)]
        if shapes[0] != shapes[1]:
            raise TrainingError(
                f"a U-Net of encoder, filters, poolings {shapes[0]} cannot start from an auto-encoder of {shapes[1]}"
            )
        self.encoder.load_state_dict(source.encoder.state_dict())
        silent = {
            name: torch.zeros_like(value) for name, value in self.rises.state_dict().items() if ".lateral." in name
        }
        self.rises.load_state_dict({**source.rises.state_dict(), **silent})
