"""PSPNet: an encoder, pyramid pooling over four grids, and a classifier per cell.

Source: Zhao et al., "Pyramid Scene Parsing Network" (CVPR 2017).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.training.networks.encoders import build_encoder

POOL_GRIDS = (1, 2, 3, 6)


def conv_block(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Convolution, batch norm, ReLU; the size stays."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def pooling_matrix(height: int, width: int, grid: int) -> Tensor:
    """`[height * width, grid * grid]`: the matrix of adaptive average pooling to a grid."""
    identity = torch.eye(height * width).reshape(height * width, 1, height, width)
    return F.adaptive_avg_pool2d(identity, grid).reshape(height * width, grid * grid)


def spreading_matrix(height: int, width: int, grid: int) -> Tensor:
    """`[grid * grid, height * width]`: the matrix of bilinear upsampling from a grid, half-pixel centres."""
    identity = torch.eye(grid * grid).reshape(grid * grid, 1, grid, grid)
    spread = F.interpolate(identity, size=(height, width), mode="bilinear", align_corners=False)
    return spread.reshape(grid * grid, height * width)


class PyramidPooling(nn.Module):
    """The features beside their averages over 1, 4, 9 and 36 regions, fused by a 3x3 convolution.

    Pooling and upsampling are products with constant matrices: they export to one MatMul each for every
    size, where ONNX has no adaptive pooling at all.
    """

    def __init__(self, channels: int, branch_channels: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(conv_block(channels, branch_channels, 1) for _ in POOL_GRIDS)
        self.fuse = conv_block(channels + branch_channels * len(POOL_GRIDS), outputs, 3)
        self._matrices: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}

    def matrices(self, height: int, width: int, grid: int) -> tuple[Tensor, Tensor]:
        """Pooling and spreading matrix, computed once a size."""
        key = (height, width, grid)
        if key not in self._matrices:
            self._matrices[key] = pooling_matrix(*key), spreading_matrix(*key)
        return self._matrices[key]

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        maps = [x]
        for grid, branch in zip(POOL_GRIDS, self.branches, strict=True):
            pool, spread = self.matrices(height, width, grid)
            averages = branch((x.flatten(2) @ pool.to(x)).unflatten(2, (grid, grid)))
            maps.append((averages.flatten(2) @ spread.to(x)).unflatten(2, (height, width)))
        return self.fuse(torch.cat(maps, dim=1))  # type: ignore[no-any-return]


class PSPNet(nn.Module):
    """Segmentation logits at the encoder's output stride.

    `forward` takes RGB `[N, 3, H, W]` in 0..255 (any float dtype) and normalises it itself. It returns logits
    `[N, classes, H / stride, W / stride]`; in training mode a pair, with the auxiliary head's logits second.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, classes: int, encoder: str = "efficientnet_lite0", output_stride: int = 16) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder, output_stride)
        *_, auxiliary_channels, channels = self.encoder.channels
        branch_channels, width = widths(channels)
        self.pyramid = PyramidPooling(channels, branch_channels, width)
        self.classify = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(width, classes, 1))
        self.auxiliary = nn.Sequential(
            conv_block(auxiliary_channels, width // 2, 3), nn.Dropout2d(0.1), nn.Conv2d(width // 2, classes, 1)
        )
        for name in ("pixel_mean", "pixel_std"):
            values = torch.tensor(getattr(self.encoder, name)).reshape(1, 3, 1, 1) * 255
            self.register_buffer(name, values, persistent=False)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        *_, auxiliary, features = self.encoder((x - self.pixel_mean) / self.pixel_std)
        logits = self.classify(self.pyramid(features))
        return (logits, self.auxiliary(auxiliary)) if self.training else logits


def widths(channels: int) -> tuple[int, int]:
    """Channels of a pyramid branch and of the fused map: 512 as published, a quarter for encoders that suit CPUs."""
    if channels < 512:
        return 80, 128
    return min(512, channels // 4), 512
