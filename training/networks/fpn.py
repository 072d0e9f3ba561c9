"""FPN: the maps of an encoder, added from coarse to fine, and a classifier on the finest.

Source: Lin et al., "Feature Pyramid Networks for Object Detection" (CVPR 2017), with PSPNet's pyramid pooling on the
coarsest map as in Xiao et al., "Unified Perceptual Parsing" (ECCV 2018). Where PSPNet keeps its encoder's last stages
at a stride of 16, these run at 32, and details come from the finer stages: fewer products for finer logits.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.training.networks.encoders import build_encoder
from glassrt.training.networks.pspnet import PyramidPooling
from glassrt.training.networks.separable import projection, separable

ENCODER_STRIDE = 32
STRIDES = (4, 8, 16)  # of the maps that an encoder shows, but for the coarsest
BRANCH_CHANNELS = 64  # of the pyramid pooling


class Merge(nn.Module):
    """One level down: the coarser map at twice its size added to the finer one's, then smoothed."""

    def __init__(self, finer: int, width: int) -> None:
        super().__init__()
        self.lateral = projection(finer, width)
        self.smooth = nn.Sequential(*separable(width, width), nn.ReLU(inplace=True))

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        # By a factor, not to a size: the graph then has no size to compute while it runs.
        raised = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
        smooth: Tensor = self.smooth(F.relu(raised + self.lateral(fine)))
        return smooth


class FPN(nn.Module):
    """Segmentation logits at `output_stride`, of maps of `width` channels.

    `forward` takes RGB `[N, 3, H, W]` in 0..255 (any float dtype), H and W multiples of 32, and normalises it itself.
    It returns logits `[N, classes, H / stride, W / stride]`; in training mode a pair, with those of the coarsest map
    second.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, classes: int, encoder: str, output_stride: int, width: int) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder, ENCODER_STRIDE)
        *finer, coarsest = self.encoder.channels[STRIDES.index(output_stride) :]
        self.pyramid = PyramidPooling(coarsest, BRANCH_CHANNELS, width)
        self.merges = nn.ModuleList(Merge(channels, width) for channels in reversed(finer))
        self.classify = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(width, classes, 1))
        self.auxiliary = nn.Conv2d(width, classes, 1)
        for name in ("pixel_mean", "pixel_std"):
            values = torch.tensor(getattr(self.encoder, name)).reshape(1, 3, 1, 1) * 255
            self.register_buffer(name, values, persistent=False)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        maps = self.encoder((x - self.pixel_mean) / self.pixel_std)
        coarsest = merged = self.pyramid(maps[-1])
        finer = maps[-1 - len(self.merges) : -1]
        for merge, fine in zip(self.merges, reversed(finer), strict=True):
            merged = merge(merged, fine)
        logits = self.classify(merged)
        return (logits, self.auxiliary(coarsest)) if self.training else logits
