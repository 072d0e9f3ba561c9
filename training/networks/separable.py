"""Separable convolutions in residual blocks, and the U-Net encoder made of them.

Source: the modified U-Net of "Weakly Supervised Training of Pixel Resolution Segmentation Models on Whole Slide
Images", section 4. It names separable convolutions, residual skips, batch norm and 32 filters to begin with; two
convolutions a block and doubling filters are those of Ronneberger et al., "U-Net" (MICCAI 2015).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.training.networks.resnet import IMAGENET_MEAN, IMAGENET_STD


def separable(inputs: int, outputs: int) -> nn.Sequential:
    """A 3x3 convolution of each channel, a 1x1 across them, batch norm; the size stays."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
    )


def projection(inputs: int, outputs: int) -> nn.Sequential:
    """A 1x1 convolution and batch norm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    """Two separable convolutions beside a skip, which is projected where the channels change."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = separable(inputs, outputs), separable(outputs, outputs)
        self.skip = nn.Identity() if inputs == outputs else projection(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.skip(x) + self.second(F.relu(self.first(x))))


class SeparableEncoder(nn.Module):
    """A residual block, then as many poolings as are asked for, each followed by a block of twice the filters.

    `forward` takes normalised `[N, 3, H, W]` and returns the maps of all blocks, fine to coarse: `channels` channels
    each, at strides 1, 2, 4 and so on.
    """

    pixel_mean, pixel_std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self, filters: int, poolings: int) -> None:
        super().__init__()
        self.channels = tuple(filters * 2**level for level in range(poolings + 1))
        pairs = zip((3, *self.channels), self.channels, strict=False)
        self.blocks = nn.ModuleList(ResidualBlock(inputs, outputs) for inputs, outputs in pairs)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps: list[Tensor] = []
        for block in self.blocks:
            maps.append(block(F.max_pool2d(maps[-1], 2) if maps else x))
        return tuple(maps)
