"""Wide-ResNet-38, the encoder of OEEM: 38 weight layers of up to 4096 channels, dilated to an output stride of 8.

Source: Wu, Shen and van den Hengel, "Wider or deeper: revisiting the ResNet model for visual recognition"
(Pattern Recognition 2019), model A1. Blocks are pre-activated: batch norm, ReLU, convolution.

The public ImageNet weights are `ilsvrc-cls_rna-a1_cls1000_ep-0001.params` of github.com/itijyou/ademxapp. Modules
here are named as in the PyTorch conversions of that file that go around (`conv1a`, `b2` ... `b7`, `bn7`), so such a
conversion loads as it is (its last stage is dilated by 4, as here; OEEM's classifier dilates that by 2). `convert`
renames the arrays of the original, which `mxnet.nd.load` reads.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.training.networks.resnet import IMAGENET_MEAN, IMAGENET_STD, convolution

WIDTH = 64  # channels of the first layer
# One row a stage: inputs, inner channels and channels out in widths, blocks, stride, dilation.
STAGES = (
    ("b2", 1, 2, 2, 3, 2, 1),
    ("b3", 2, 4, 4, 3, 2, 1),
    ("b4", 4, 8, 8, 6, 2, 1),
    ("b5", 8, 8, 16, 3, 1, 2),
)
STATISTICS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}


class WideBlock(nn.Module):
    """Two 3x3 convolutions. Also returns its activated input, which is what the stage before has to show."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = convolution(inputs, inner, 3, stride, dilations[0])
        self.bn_branch2b1 = nn.BatchNorm2d(inner)
        self.conv_branch2b1 = convolution(inner, outputs, 3, 1, dilations[1])
        self.conv_branch1 = None if (inputs, 1) == (outputs, stride) else convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        active = F.relu(self.bn_branch2a(x))
        side = x if self.conv_branch1 is None else self.conv_branch1(active)
        y = self.conv_branch2b1(F.relu(self.bn_branch2b1(self.conv_branch2a(active))))
        return side + y, active


class WideBottleneck(nn.Module):
    """A 1x1 convolution down to a quarter, a dilated 3x3 to a half, a 1x1 up; with dropout. Returns as `WideBlock`."""

    def __init__(self, inputs: int, outputs: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = convolution(inputs, outputs // 4, 1)
        self.bn_branch2b1 = nn.BatchNorm2d(outputs // 4)
        self.conv_branch2b1 = convolution(outputs // 4, outputs // 2, 3, 1, dilation)
        self.bn_branch2b2 = nn.BatchNorm2d(outputs // 2)
        self.conv_branch2b2 = convolution(outputs // 2, outputs, 1)
        self.conv_branch1 = convolution(inputs, outputs, 1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        active = F.relu(self.bn_branch2a(x))
        y = self.dropout(F.relu(self.bn_branch2b1(self.conv_branch2a(active))))
        y = self.dropout(F.relu(self.bn_branch2b2(self.conv_branch2b1(y))))
        return self.conv_branch1(active) + self.conv_branch2b2(y), active


class ResNet38(nn.Module):
    """Features of Wide-ResNet-38 at output stride 8.

    `forward` takes normalised `[N, 3, H, W]` and returns the activated maps of stages b4, b5 and b7, of 512, 1024
    and 4096 channels: the three that OEEM's classifier fuses.
    """

    pixel_mean, pixel_std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self) -> None:
        super().__init__()
        self.channels = (8 * WIDTH, 16 * WIDTH, 64 * WIDTH)
        self.conv1a = nn.Conv2d(3, WIDTH, 3, padding=1, bias=False)
        self.names: list[str] = []
        for name, inputs, inner, outputs, blocks, stride, dilation in STAGES:
            for index in range(blocks):
                dilations = (1 if index == 0 else dilation, dilation)
                block = WideBlock(
                    inputs * WIDTH, inner * WIDTH, outputs * WIDTH, stride if index == 0 else 1, dilations
                )
                self.names.append(f"{name}_{index}" if index else name)
                self.add_module(self.names[-1], block)
                inputs = outputs
        self.b6 = WideBottleneck(16 * WIDTH, 32 * WIDTH, 4, 0.3)
        self.b7 = WideBottleneck(32 * WIDTH, 64 * WIDTH, 4, 0.5)
        self.bn7 = nn.BatchNorm2d(64 * WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = fourth = self.conv1a(x)
        for name in self.names:
            x, active = self.get_submodule(name)(x)
            if name == "b5":
                fourth = active
        x, fifth = self.b6(x)
        x, _ = self.b7(x)
        return fourth, fifth, F.relu(self.bn7(x))


def public_name(array: str) -> str | None:
    """The parameter here that holds `array` of the public MXNet file; None for its ImageNet classifier.

    `res4b2_branch2a_weight` -> `b4_2.conv_branch2a.weight`, `bn7_gamma` -> `bn7.weight`. MXNet's prefixes `arg:`
    and `aux:` are left away.
    """
    unit, *rest = array.split(":")[-1].split("_", 1)
    if unit == "linear1000":
        return None
    if unit == "conv1a":
        return "conv1a.weight"
    if unit == "bn7":
        return f"bn7.{STATISTICS[rest[0]]}"
    branch, _, kind = rest[0].partition("_")
    layer, place = ("conv", unit[3:]) if unit.startswith("res") else ("bn", unit[2:])
    block = f"b{place[0]}_{place[2:]}" if place[1:] not in ("", "a") else f"b{place[0]}"
    return f"{block}.{layer}_{branch}.{'weight' if layer == 'conv' else STATISTICS[kind]}"


def convert(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """The arrays of the public MXNet file, as NumPy, under the names of `ResNet38`; without the classifier."""
    named = {public_name(array): torch.from_numpy(values) for array, values in arrays.items()}
    return {name: tensor for name, tensor in named.items() if name is not None}
