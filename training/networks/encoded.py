"""An encoder behind its normalisation, as networks are built on."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from glassrt.training.networks.encoders import Encoder


class Encoded(nn.Module):
    """RGB `[N, 3, H, W]` in 0..255 -> the encoder's maps, fine to coarse.

    `frozen` encoders keep their batch norm's statistics; one that does not learn keeps all that it starts with.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, encoder: Encoder, frozen: bool, learns: bool) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(learns)
        self.frozen = frozen or not learns
        for statistic in ("pixel_mean", "pixel_std"):
            values = torch.tensor(getattr(encoder, statistic)).reshape(1, 3, 1, 1) * 255
            self.register_buffer(statistic, values, persistent=False)

    def train(self, mode: bool = True) -> "Encoded":
        """Frozen batch norm stays in evaluation mode; its scale and shift learn where the encoder does."""
        super().train(mode)
        if self.frozen:
            for module in self.encoder.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def normalise(self, x: Tensor) -> Tensor:
        """What the encoder sees of RGB in 0..255."""
        return (x - self.pixel_mean) / self.pixel_std

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        maps: tuple[Tensor, ...] = self.encoder(self.normalise(x))
        return maps
