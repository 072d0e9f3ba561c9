"""DA-RefineNet: segmentation of a fine window in sight of its surroundings (Li et al.).

The same texture is labelled differently at different places, so a second encoder sees the place at low resolution.
Read downwards: settings, network, windows and their surroundings, loss, loop.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.engine.geometry.boxes import Box
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.readers import open_slide
from glassrt.training import augment, losses
from glassrt.training.config import Rate, Schedule
from glassrt.training.datasets import mosaic
from glassrt.training.datasets.labelled import LabelledSlide
from glassrt.training.loop import Example, Group, Progress, Random, Task, fit
from glassrt.training.networks.encoders import check_encoder, load_weights
from glassrt.training.networks.refinenet import DARefineNet, Design
from glassrt.training.run import Run
from glassrt.training.world import World

METHOD = "da-refinenet"
SETS: dict[str, Any] = {"mosaic": mosaic}
PLACE_UM = 32.0  # side of the squares that windows are drawn around
Side = Annotated[int, Meta(ge=32, multiple_of=32)]


class DaRefineNetConfig(Schedule, frozen=True, kw_only=True):
    """What one network learns from. `learning_rate` is the decoder's, `phases` are the paper's steps."""

    dataset: Literal["bach", "mosaic"]
    split: str = "train"
    mpp: Rate
    window: Side
    # What the second input shows: nothing (the single-input control), the surroundings, or the same at half the size
    # (the multi-size control).
    context: Literal["none", "surroundings", "same"]
    context_factor: Annotated[float, Meta(gt=1)] = 5.0  # a context pixel's side in fine pixels
    context_anchor: Literal["tile", "centre"] = "tile"
    encoder: str
    context_encoder: str
    weights: str = "imagenet"  # or "random", or a file
    context_weights: str = "imagenet"
    fusion: Literal["add", "concat", "attention", "attention_pooled"]
    align: Literal["none", "footprint"] = "none"
    light: bool = False  # LW-Attn blocks
    widths: tuple[Annotated[int, Meta(ge=1)], Annotated[int, Meta(ge=1)]] = (512, 256)
    frozen_norm: bool = True
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.5
    encoder_rate: Rate = 0.1  # the encoders' share of the learning rate
    colour: augment.Colour

    def __post_init__(self) -> None:
        if self.align == "footprint" and (self.context != "surroundings" or self.fusion == "attention_pooled"):
            raise ValueError("align footprint needs a context of surroundings, and a fusion that is given its maps")

    @property
    def factor(self) -> float:
        """A context pixel's side in fine pixels."""
        return 2.0 if self.context == "same" else self.context_factor

    @property
    def context_side(self) -> int:
        """Pixels of a context's side."""
        return self.window // 2 if self.context == "same" else self.window


def build_network(config: DaRefineNetConfig) -> DARefineNet:
    """The network, with random weights."""
    return DARefineNet(
        len(SETS[config.dataset].CLASSES),
        Design(
            encoder=config.encoder,
            context=None if config.context == "none" else config.context_encoder,
            fusion=config.fusion,
            widths=config.widths,
            light=config.light,
            footprint=1 / config.factor if config.align == "footprint" else None,
            frozen=config.frozen_norm,
            dropout=config.dropout,
        ),
    )


class Ground(NamedTuple):
    """A slide at the configured resolution, and where on it each class is: the middles `[n, 2]` (x, y) of squares."""

    slide: LabelledSlide
    grid: GridReader
    places: tuple[NDArray[np.float64], ...]


def open_ground(slide: LabelledSlide, classes: int, mpp: float) -> Ground:
    """The slide opened, for as long as the process lives, and looked over."""
    grid = GridReader(open_slide(slide.path, slide.mpp), mpp)
    side = PLACE_UM / mpp
    size = max(1, round(grid.width / side)), max(1, round(grid.height / side))
    coarse = slide.truth.cut(Box(0, 0, *size), size)
    step = np.array([grid.width, grid.height]) / size
    return Ground(slide, grid, tuple((np.argwhere(coarse == each)[:, ::-1] + 0.5) * step for each in range(classes)))


def draw_example(grounds: list[Ground], config: DaRefineNetConfig, number: int, random: Random) -> Example:
    """A window that shows a class, the classes in turn, somewhere within; mirrored and turned with its context."""
    classes = [each for each in range(len(grounds[0].places)) if any(len(ground.places[each]) for ground in grounds)]
    wanted = classes[number % len(classes)]
    counts = np.cumsum([len(ground.places[wanted]) for ground in grounds])
    chosen = int(random.integers(counts[-1]))
    ground = grounds[int(np.searchsorted(counts, chosen, side="right"))]
    middle = ground.places[wanted][chosen - counts[grounds.index(ground)]]
    size = np.array([ground.grid.width, ground.grid.height])
    start = np.clip(middle - random.uniform(0, config.window, 2), 0, np.maximum(size - config.window, 0)).astype(int)
    left, top = (int(each) for each in start)
    inputs = {"fine": ground.grid.read(left, top, config.window, config.window)}
    place = np.zeros(2, np.float32)
    if config.context != "none":
        context = ground.grid.at(config.factor)
        side = config.context_side
        f = config.window / config.factor
        at = start / config.factor
        if config.context_anchor == "tile" and config.context == "surroundings":
            first = at - random.uniform(0, side - f - 1, 2)
        else:
            first = at + f / 2 - side / 2
        first = np.clip(np.round(first), 0, np.array([context.width, context.height]) - side).astype(int)
        inputs["context"] = context.read(int(first[0]), int(first[1]), side, side)
        place = ((at - first) / side).astype(np.float32)
    mask = ground.slide.truth.cut(
        Box(left, top, left + config.window, top + config.window), (ground.grid.width, ground.grid.height)
    )
    seed = int(random.integers(1 << 32))  # the same stain for both
    turns, mirror = int(random.integers(4)), bool(random.integers(2))
    colour = augment.COLOURS[config.colour]
    turned: dict[str, Any] = {
        name: colour(augment.turn(pixels, turns, mirror), np.random.default_rng(seed))
        for name, pixels in inputs.items()
    }
    if config.context != "none":
        turned["place"] = augment.turn_place(place, 1 / config.factor, turns, mirror)
    return Example(turned, augment.turn(mask, turns, mirror).astype(np.int64), ground.slide.name)


def segmentation_loss(network: nn.Module, inputs: dict[str, Tensor], labels: Tensor, step: int) -> Tensor:
    """Eqs. 9 and 16: cross-entropy of the logits upsampled to the labels."""
    logits = losses.full_precision(network(**inputs))
    logits = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    return losses.cross_entropy(logits, labels)


def train(
    config: DaRefineNetConfig,
    slides: list[LabelledSlide],
    folder: Path,
    world: World,
    progress: Progress = lambda step, loss: None,
) -> None:
    """Train on `slides` to the end, resuming in `folder`; leaves `folder/model.safetensors`. Raises TrainingError."""
    check_encoder(config.encoder, 32, config.weights)
    check_encoder(config.context_encoder, 32, config.context_weights)
    run = Run(folder, {"method": METHOD, "config": msgspec.json.encode(config).decode()})
    if run.is_finished():
        return
    grounds = [open_ground(slide, len(SETS[config.dataset].CLASSES), config.mpp) for slide in slides]

    def draw(number: int, random: Random) -> Example:
        return draw_example(grounds, config, number, random)

    def start() -> nn.Module:
        network = build_network(config)
        load_weights(network.fine.encoder, config.encoder, config.weights)
        if network.context is not None:
            load_weights(network.context.encoder, config.context_encoder, config.context_weights)
        return network

    def groups(network: nn.Module) -> list[Group]:
        """Encoders learn slower: they start from ImageNet."""
        encoders = [each for name, each in network.named_parameters() if ".encoder." in name]
        others = [each for name, each in network.named_parameters() if ".encoder." not in name]
        return [Group(encoders, config.encoder_rate), Group(others, 1.0)]

    fit(Task(start, draw, segmentation_loss, None, groups=groups), config, run, world, progress)
