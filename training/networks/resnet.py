"""ResNet encoders with 18, 34, 50, 101 and 152 layers.

Source: He et al., "Deep residual learning for image recognition" (CVPR 2016), with the stride of a bottleneck in
its 3x3 convolution. Parameter names are torchvision's, so its public ImageNet weights load as they are.
"""

from torch import Tensor, nn
from torch.nn import functional as F

STAGE_CHANNELS = (64, 128, 256, 512)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Without bias, padded so that only the stride changes the size."""
    return nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, bias=False)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The projection that a block needs where its shape changes."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(inputs, channels, 3, stride, dilation), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = convolution(channels, channels, 3, 1, dilation), nn.BatchNorm2d(channels)
        self.downsample = shortcut(inputs, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """A 1x1 convolution down, a 3x3, a 1x1 up."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = channels * self.expansion
        self.conv1, self.bn1 = convolution(inputs, channels, 1), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = convolution(channels, channels, 3, stride, dilation), nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = convolution(channels, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


LAYOUTS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """Features of a ResNet at a fixed output stride of 8, 16 or 32.

    `forward` takes normalised `[N, 3, H, W]` and returns the maps of its four stages, `channels` channels each, the
    first at stride 4. Later stages trade their stride for dilation, as in DeepLab; the first block of such a stage
    keeps the dilation of the stage before, as torchvision's do.
    """

    pixel_mean, pixel_std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self, name: str, output_stride: int) -> None:
        super().__init__()
        block, repeats = LAYOUTS[name]
        self.conv1 = nn.Conv2d(3, STAGE_CHANNELS[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(STAGE_CHANNELS[0])
        inputs, stride_so_far, dilation = STAGE_CHANNELS[0], 4, 1
        for stage, (channels, count) in enumerate(zip(STAGE_CHANNELS, repeats, strict=True), start=1):
            stride, first_dilation = (1 if stage == 1 else 2), dilation
            if stride == 2 and stride_so_far == output_stride:
                stride, dilation = 1, dilation * 2
            stride_so_far *= stride
            blocks = nn.Sequential(block(inputs, channels, stride, first_dilation))
            inputs = channels * block.expansion
            blocks.extend(block(inputs, channels, 1, dilation) for _ in range(count - 1))
            self.add_module(f"layer{stage}", blocks)
        self.channels = tuple(channels * block.expansion for channels in STAGE_CHANNELS)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        maps = []
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            maps.append(x)
        return tuple(maps)
