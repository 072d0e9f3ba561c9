"""A classifier of tiles: an encoder's last map, averaged, and one linear layer."""

from torch import Tensor, nn

from glassrt.training.losses import full_precision
from glassrt.training.networks.extractors import PooledEncoder


class TileClassifier(nn.Module):
    """RGB `[N, 3, H, W]` in 0..255 -> logits `[N, C]`. Raises TrainingError for an encoder that does not exist.

    An encoder that does not learn keeps all that it starts with, its batch norm's statistics too.
    """

    def __init__(self, classes: int, encoder: str, learns: bool = True) -> None:
        super().__init__()
        self.encoder = PooledEncoder(encoder, frozen=False, learns=learns)
        self.classify = nn.Linear(self.encoder.channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return full_precision(self.classify(self.encoder(x)))
