"""What turns the instances of a bag into features: small convolutional networks, or any encoder by name.

Sources: "Distill-to-Label", section 4, whose two convolutions are those of the code it cites for attention-based MIL
on colon patches; LeNet5 as Ilse et al., "Attention-based Deep Multiple Instance Learning" (ICML 2018), have it. The
channels of five convolutions are not published: they are ours.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from glassrt.engine.errors import TrainingError
from glassrt.training.networks.encoded import Encoded
from glassrt.training.networks.encoders import STRIDES, build_encoder

MIDDLE = 127.5  # of 0..255: what pixels are normalised by until the training data's statistics are known


class Convolution(NamedTuple):
    """A convolution, followed by ReLU and 2x2 max pooling."""

    channels: int
    kernel: int
    padding: int = 0


class Layout(NamedTuple):
    """Convolutions for patches of `side` pixels, then fully connected layers, each with ReLU and dropout."""

    side: int
    convolutions: tuple[Convolution, ...]
    connected: tuple[int, ...]
    dropout: float


LAYOUTS = {
    "lenet5": Layout(28, (Convolution(20, 5), Convolution(50, 5)), (500,), 0.0),
    "conv2": Layout(27, (Convolution(36, 4), Convolution(48, 3)), (512, 512), 0.5),
    "conv5": Layout(32, tuple(Convolution(channels, 3, 1) for channels in (36, 48, 64, 96, 128)), (512, 512), 0.5),
}


class ConvExtractor(nn.Module):
    """RGB `[N, 3, side, side]` in 0..255 -> features `[N, channels]`.

    Grey pictures come as three equal channels. `pixel_mean` and `pixel_std` are stored with the weights. `forward`
    raises ValueError for patches of another size.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.side, side = layout.side, layout.side
        convolved: list[nn.Module] = []
        inputs = 3
        for channels, kernel, padding in layout.convolutions:
            convolved += [nn.Conv2d(inputs, channels, kernel, padding=padding), nn.ReLU(), nn.MaxPool2d(2)]
            inputs, side = channels, (side + 2 * padding - kernel + 1) // 2
        connected: list[nn.Module] = []
        for wide, narrow in pairwise((inputs * side**2, *layout.connected)):
            connected += [nn.Linear(wide, narrow), nn.ReLU(), nn.Dropout(layout.dropout)]
        self.convolved, self.connected = nn.Sequential(*convolved), nn.Sequential(*connected)
        self.channels = layout.connected[-1]
        for statistic in ("pixel_mean", "pixel_std"):
            self.register_buffer(statistic, torch.full((1, 3, 1, 1), MIDDLE))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if (height, width) != (self.side, self.side):
            raise ValueError(f"instances of {width} x {height} px: the network takes {self.side} x {self.side}")
        features: Tensor = self.connected(self.convolved((x - self.pixel_mean) / self.pixel_std).flatten(1))
        return features


class PooledEncoder(Encoded):
    """RGB `[N, 3, H, W]` in 0..255 -> features `[N, channels]`: the mean of the last map of an encoder by name.

    Where bags are perturbed, batch norm that is not frozen also takes its statistics from the perturbed ones.
    """

    def __init__(self, name: str, frozen: bool, learns: bool) -> None:
        encoder = build_encoder(name, max(STRIDES[name]))
        super().__init__(encoder, frozen, learns)
        self.channels = encoder.channels[-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x)[-1].mean((2, 3))


Extractor = ConvExtractor | PooledEncoder


def build_extractor(name: str, frozen: bool, learns: bool) -> Extractor:
    """An extractor with random weights. Raises TrainingError for a name that does not exist.

    `frozen` encoders by name keep their batch norm's statistics; what does not learn keeps all that it starts with.
    """
    if name in LAYOUTS:
        return ConvExtractor(LAYOUTS[name]).requires_grad_(learns)
    if name in STRIDES:
        return PooledEncoder(name, frozen, learns)
    raise TrainingError(f"extractor {name!r} is not known; choose one of {', '.join((*LAYOUTS, *STRIDES))}")
