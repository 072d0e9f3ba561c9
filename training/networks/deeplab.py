"""DeepLabV2: an encoder at stride 8 and four atrous convolutions, whose logits are added.

Source: Chen et al., "DeepLab: Semantic image segmentation with deep convolutional nets, atrous convolution, and fully
connected CRFs" (TPAMI 2017), ASPP-L; without its CRF, as it is used to pre-train encoders.
"""

import torch
from torch import Tensor, nn

from glassrt.training.losses import full_precision
from glassrt.training.networks.encoded import Encoded
from glassrt.training.networks.encoders import build_encoder

RATES = (6, 12, 18, 24)
OUTPUT_STRIDE = 8


def atrous(channels: int, classes: int, rate: int) -> nn.Conv2d:
    """One of the convolutions, with small random weights: four are added."""
    head = nn.Conv2d(channels, classes, 3, padding=rate, dilation=rate)
    nn.init.normal_(head.weight, std=0.01)
    assert head.bias is not None
    nn.init.zeros_(head.bias)
    return head


class DeepLabV2(Encoded):
    """RGB `[N, 3, H, W]` in 0..255 -> logits `[N, C, H / 8, W / 8]`, rounded up.

    Raises TrainingError for an encoder that does not exist or does not run at that stride.
    """

    def __init__(self, classes: int, encoder: str) -> None:
        built = build_encoder(encoder, OUTPUT_STRIDE)
        super().__init__(built, frozen=False, learns=True)
        self.heads = nn.ModuleList(atrous(built.channels[-1], classes, rate) for rate in RATES)

    def forward(self, x: Tensor) -> Tensor:
        features = self.encode(x)[-1]
        return full_precision(torch.stack([head(features) for head in self.heads]).sum(0))
