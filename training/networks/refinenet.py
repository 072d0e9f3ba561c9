"""DA-RefineNet: a fine window and its surroundings, each through an encoder of its own, decoded together.

Source: Li et al., "DA-RefineNet: A Dual Input Whole Slide Image Segmentation Algorithm Based on Attention", on the
decoder of Lin et al., "RefineNet" (CVPR 2017). Written from the papers; where they leave room, so that the float32
sizes of Table I come out: every 1x1 that fits channels to a block is one, chains pool four times, 512 channels at the
coarsest level and 256 at the others.
"""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.training.networks.encoded import Encoded
from glassrt.training.networks.encoders import build_encoder
from glassrt.training.networks.fusion import build_fusion, crop_footprint, fit

LEVELS = 4
OUTPUT_STRIDE, COARSEST_STRIDE = 4, 32
POOLS = 4  # of a chain
FINE_UNITS, OUTPUT_UNITS = 2, 3  # residual units on the fine path and after the chain


class Design(NamedTuple):
    """What a network is made of.

    `context` None is the single-input control. `widths` are the channels of the coarsest level and of the others.
    `light` takes LW-Attn blocks. `footprint`, the window's side as a share of its context's, crops the context's maps
    to the fine window's place; None leaves them as they are. `frozen` encoders keep their batch norm's statistics;
    what does not learn keeps all that it starts with.
    """

    encoder: str
    context: str | None
    fusion: str
    widths: tuple[int, int] = (512, 256)
    light: bool = False
    footprint: float | None = None
    frozen: bool = True
    encoder_learns: bool = True
    context_learns: bool = True
    dropout: float = 0.5


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions beside a skip, without batch norm (RCU)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.conv2(F.relu(self.conv1(F.relu(x))))
        return y


class ChainedPooling(nn.Module):
    """Pooling and a 3x3 convolution, again and again, each added (CRP)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(POOLS))

    def forward(self, x: Tensor) -> Tensor:
        x = path = F.relu(x)
        for conv in self.convs:
            path = conv(F.max_pool2d(path, 5, 1, 2))
            x = x + path
        return x


class SimpleResidual(nn.Module):
    """1x1, two 3x3 beside a skip, 1x1, without batch norm or ReLU (SRB, Fig. 7)."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, channels, 1, bias=False)
        self.convs = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )
        self.last = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y: Tensor = self.last(x + self.convs(x))
        return y


class RefineBlock(nn.Module):
    """One level: the fine map prepared, fused with its surroundings and what is decoded, and refined (Fig. 3).

    `coarser` are the channels of the decoded map, 0 at the coarsest level. A light block (Fig. 6) has a simple
    residual block in place of the units and no chain.
    """

    def __init__(self, inputs: int, channels: int, coarser: int, dual: bool, fusion: str, light: bool) -> None:
        super().__init__()
        if light:
            self.prepare: nn.Module = SimpleResidual(inputs, channels)
            self.refine: nn.Module = nn.Identity()
        else:
            reduce = nn.Conv2d(inputs, channels, 1, bias=False)
            self.prepare = nn.Sequential(reduce, *(ResidualUnit(channels) for _ in range(FINE_UNITS)))
            units = (ResidualUnit(channels) for _ in range(OUTPUT_UNITS))
            self.refine = nn.Sequential(ChainedPooling(channels), *units)
        self.fits_fine = self.fits_decoded = None
        if coarser:
            self.fits_decoded = nn.Conv2d(coarser, channels, 1, bias=False)
            self.fits_fine = None if light else nn.Conv2d(channels, channels, 1, bias=False)
        self.fuse = build_fusion(fusion, channels, 1 + dual + bool(coarser))

    def forward(self, fine: Tensor, context: Tensor | None, decoded: Tensor | None) -> Tensor:
        fine = self.prepare(fine)
        if self.fits_fine is not None:
            fine = self.fits_fine(fine)
        if decoded is not None:
            assert self.fits_decoded is not None
            decoded = fit(self.fits_decoded(decoded), fine)
        refined: Tensor = self.refine(self.fuse(fine, context, decoded))
        return refined


class ContextNet(Encoded):
    """The surroundings `[N, 3, H, W]` -> their features, coarse to fine: maps, or vectors where the fusion pools."""

    def __init__(self, encoder: str, design: Design) -> None:
        super().__init__(build_encoder(encoder, COARSEST_STRIDE), design.frozen, design.context_learns)
        self.fits = nn.ModuleList(
            nn.Conv2d(channels, width, 1, bias=False)
            for channels, width in zip(reversed(self.encoder.channels), level_widths(design), strict=True)
        )
        for weight in self.fits.parameters():
            nn.init.zeros_(weight)  # surroundings start silent: the network begins as the single-input one
        self.pooled = build_fusion(design.fusion, 1, 1).pooled

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = [fits(each) for fits, each in zip(self.fits, reversed(self.encode(x)), strict=True)]
        return tuple(each.mean((2, 3)) for each in maps) if self.pooled else tuple(maps)


class FineNet(Encoded):
    """A window `[N, 3, H, W]` and its surroundings' features -> logits `[N, classes, H / 4, W / 4]`.

    Last comes the window's place in its context, `[N, 2]`, where maps are cropped to it.
    """

    def __init__(self, classes: int, design: Design) -> None:
        super().__init__(build_encoder(design.encoder, COARSEST_STRIDE), design.frozen, design.encoder_learns)
        dual = design.context is not None
        widths, coarser = level_widths(design), 0
        blocks = []
        for channels, width in zip(reversed(self.encoder.channels), widths, strict=True):
            blocks.append(RefineBlock(channels, width, coarser, dual, design.fusion, design.light))
            coarser = width
        self.blocks = nn.ModuleList(blocks)
        self.classify = nn.Sequential(nn.Dropout(design.dropout), nn.Conv2d(coarser, classes, 3, padding=1))
        self.footprint = design.footprint

    def forward(self, x: Tensor, *features: Tensor) -> Tensor:
        decoded = None
        for level, (block, fine) in enumerate(zip(self.blocks, reversed(self.encode(x)), strict=True)):
            context = self.lay_over(features[level], fine, *features[LEVELS:]) if features else None
            decoded = block(fine, context, decoded)
        logits: Tensor = self.classify(decoded)
        return logits

    def lay_over(self, context: Tensor, fine: Tensor, place: Tensor | None = None) -> Tensor:
        """A level's features of the surroundings, maps at the size of the fine one: whole, or the window's place."""
        if context.ndim == 2:
            return context
        if self.footprint is None or place is None:
            return fit(context, fine)
        return crop_footprint(context, place, self.footprint, fine)


class DARefineNet(nn.Module):
    """Both networks together; without `design.context` the fine one alone, the paper's single-input control.

    `forward` takes windows `[N, 3, H, W]`, contexts `[M, 3, H, W]`, each of N / M windows in a row, both RGB in 0..255,
    and the windows' places `[N, 2]`.
    """

    def __init__(self, classes: int, design: Design) -> None:
        super().__init__()
        self.fine = FineNet(classes, design)
        self.context = None if design.context is None else ContextNet(design.context, design)

    def forward(self, fine: Tensor, context: Tensor | None = None, place: Tensor | None = None) -> Tensor:
        features: tuple[Tensor, ...] = () if self.context is None or context is None else self.context(context)
        features = tuple(each.repeat_interleave(len(fine) // len(each), 0) for each in features)
        places = () if self.fine.footprint is None or place is None else (place,)
        logits: Tensor = self.fine(fine, *features, *places)
        return logits


def level_widths(design: Design) -> tuple[int, ...]:
    """Channels of each level, coarse to fine; light blocks have those of the finer levels throughout."""
    coarsest, finer = design.widths
    return (finer if design.light else coarsest, *(finer,) * (LEVELS - 1))
