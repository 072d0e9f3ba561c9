"""How a fine window's features and those of its surroundings become one: the three schemes of DA-RefineNet, Fig. 5.

A fusion takes the fine map `[N, C, h, w]`, the context's features and the map decoded so far, None at the coarsest
level, and returns a map like the fine one. The context's features are a map, or a vector where the fusion is `pooled`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FUSIONS = ("add", "concat", "attention", "attention_pooled")


class Add(nn.Module):
    """The sum."""

    pooled = False

    def forward(self, fine: Tensor, context: Tensor | None, decoded: Tensor | None) -> Tensor:
        return sum((each for each in (context, decoded) if each is not None), start=fine)


class Concat(nn.Module):
    """All maps side by side, then a 1x1 convolution back to as many channels."""

    pooled = False

    def __init__(self, channels: int, maps: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(maps * channels, channels, 1)

    def forward(self, fine: Tensor, context: Tensor | None, decoded: Tensor | None) -> Tensor:
        reduced: Tensor = self.reduce(beside(fine, context, decoded))
        return reduced


class Attention(nn.Module):
    """Eqs. 10-12 in the paper's order: all maps reduced by a 1x1 convolution, a residual block, then pooled to one
    weight a channel of the fine map, to which the decoded map is added.
    """

    pooled = False

    def __init__(self, channels: int, maps: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(maps * channels, channels, 1)
        self.residual = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, fine: Tensor, context: Tensor | None, decoded: Tensor | None) -> Tensor:
        reduced = self.reduce(beside(fine, context, decoded))  # Eq. 10
        weights = torch.sigmoid((reduced + self.residual(reduced)).mean((2, 3), keepdim=True))  # Eq. 11
        return fine * weights if decoded is None else fine * weights + decoded  # Eq. 12


class AttentionPooled(nn.Module):
    """The same with pooling first, as the authors' code does it: the context is but one vector a level, so it can be
    computed once for all windows that it surrounds.
    """

    pooled = True

    def __init__(self, channels: int, maps: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.Linear(maps * channels, channels), nn.ReLU(), nn.Linear(channels, channels))

    def forward(self, fine: Tensor, context: Tensor | None, decoded: Tensor | None) -> Tensor:
        pooled = [each.mean((2, 3)) for each in (fine, decoded) if each is not None]
        vectors = pooled if context is None else [pooled[0], context, *pooled[1:]]
        weights = torch.sigmoid(self.weigh(torch.cat(vectors, 1)))[:, :, None, None]
        return fine * weights if decoded is None else fine * weights + decoded


def build_fusion(name: str, channels: int, maps: int) -> Add | Concat | Attention | AttentionPooled:
    """The fusion of `maps` maps of `channels` channels each."""
    if name == "add":
        return Add()
    if name == "concat":
        return Concat(channels, maps)
    return AttentionPooled(channels, maps) if name == "attention_pooled" else Attention(channels, maps)


def beside(fine: Tensor, *others: Tensor | None) -> Tensor:
    """The maps that there are, side by side."""
    return torch.cat([fine, *(each for each in others if each is not None)], 1)


def fit(x: Tensor, like: Tensor) -> Tensor:
    """A map at the height and width of another, bilinear with half-pixel centres."""
    if x.shape[2:] == like.shape[2:]:
        return x
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def crop_footprint(x: Tensor, place: Tensor, share: float, like: Tensor) -> Tensor:
    """What a context's map `[N, C, h, w]` shows of the fine window's place, at the height and width of a fine map.

    `place` `[N, 2]` is x and y of the window's first pixel as a fraction of the context's side, `share` the window's
    side as one. Bilinear with half-pixel centres, clamped: two products with matrices, as every runtime knows.
    """
    rows = sampling(place[:, 1:], share, x.shape[2], like.shape[2])
    columns = sampling(place[:, :1], share, x.shape[3], like.shape[3])
    return rows[:, None] @ x @ columns[:, None].transpose(2, 3)


def sampling(start: Tensor, share: float, length: int, wanted: int) -> Tensor:
    """`[N, wanted, length]`: the weights of a map's pixels in those `wanted` of its part from `start` `[N, 1]` on."""
    pixels, parts = (torch.arange(each, device=start.device, dtype=start.dtype) for each in (length, wanted))
    at = (start + share * (parts + 0.5) / wanted) * length - 0.5
    return torch.relu(1 - (at.clamp(0, length - 1)[:, :, None] - pixels).abs())
