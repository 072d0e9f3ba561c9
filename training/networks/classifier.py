"""Patch classifier whose class activation maps are one convolution away: stage 1 of OEEM.

Source: OEEM, section 2.1 and Eq. 1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.training.networks.encoders import build_encoder

FUSED = 3  # stages, the last of the encoder


class PatchClassifier(nn.Module):
    """Multi-label logits `[N, classes]` from the encoder's last three stages, fused at the finest of them.

    `forward` takes RGB `[N, 3, H, W]` in 0..255. Pooling and the 1x1 classifier are both linear, so the logits are
    the mean of the class activation maps: `activations` is Eq. 1, `forward` its average over the patch. The dropout
    before them is not in the authors' classifier.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, classes: int, encoder: str, output_stride: int) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder, output_stride)
        self.dropout = nn.Dropout2d(0.5)
        self.classify = nn.Conv2d(sum(self.encoder.channels[-FUSED:]), classes, 1)
        self.register_buffer("pixel_mean", torch.zeros(1, 3, 1, 1))
        self.register_buffer("pixel_std", torch.ones(1, 3, 1, 1))

    def activations(self, x: Tensor) -> Tensor:
        """Class activation maps `[N, classes, h, w]` at the stride of the finest fused stage, 8."""
        finest, *coarser = self.encoder((x - self.pixel_mean) / self.pixel_std)[-FUSED:]
        size = finest.shape[2:]
        fused = [finest, *(F.interpolate(each, size, mode="bilinear", align_corners=False) for each in coarser)]
        maps: Tensor = self.classify(self.dropout(torch.cat(fused, 1)))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        return self.activations(x).mean((2, 3))
