"""DA-RefineNet: segmentation of a fine window in sight of its surroundings (Li et al.).

The same texture is labelled differently at different places, so a second encoder sees the place at low resolution.
Read downwards: settings, network, windows and their surroundings, loss, loop.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.engine.flow.cut import cut_windows
from glassrt.engine.geometry.boxes import Box, Size
from glassrt.engine.geometry.plan import InputSpec, Layer, Plan, lattice_step, lay_around, lay_at
from glassrt.engine.geometry.views import View
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.watch import Clock
from glassrt.training import augment, losses, pictures
from glassrt.training.config import Rate, Schedule
from glassrt.training.datasets import bach, mosaic
from glassrt.training.datasets.labelled import LabelledSlide
from glassrt.training.loop import Example, Group, Progress, Random, Task, fit
from glassrt.training.metrics import IGNORE
from glassrt.training.networks.encoders import check_encoder, load_weights
from glassrt.training.networks.refinenet import DARefineNet, Design
from glassrt.training.run import Run
from glassrt.training.world import World

METHOD = "da-refinenet"
SETS: dict[str, Any] = {"bach": bach, "mosaic": mosaic}
PLACE_UM = 32.0  # side of the squares that windows are drawn around
Side = Annotated[int, Meta(ge=32, multiple_of=8)]


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
    context_window: Side | UnsetType = UNSET  # pixels of a context's side; unset: as many as the window's
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
    context_learns: bool = True  # or the context's encoder stays as it starts
    colour: augment.Colour

    def __post_init__(self) -> None:
        if self.align == "footprint" and (self.context != "surroundings" or self.fusion == "attention_pooled"):
            raise ValueError("align footprint needs a context of surroundings, and a fusion that is given its maps")

    @property
    def factor(self) -> float:
        """A context pixel's side in fine pixels."""
        return 2.0 if self.context == "same" else self.context_factor

    @property
    def share(self) -> float:
        """The window's side as a share of its context's."""
        return self.window / (self.factor * self.context_side)

    @property
    def anchor(self) -> Literal["tile", "centre"]:
        """Where the second input lies."""
        return "centre" if self.context == "same" else self.context_anchor

    @property
    def context_side(self) -> int:
        """Pixels of a context's side."""
        if self.context == "same":
            return self.window // 2
        return self.window if self.context_window is UNSET else self.context_window


def find_slides(config: DaRefineNetConfig, data: Path) -> list[LabelledSlide]:
    """The slides to learn from. Raises DatasetError."""
    slides: list[LabelledSlide] = SETS[config.dataset].find_slides(data, config.split)
    return slides


def check(config: DaRefineNetConfig, world: World) -> None:
    """Raise TrainingError if training with these settings cannot begin."""
    check_encoder(config.encoder, 32, config.weights)
    if config.context != "none":
        check_encoder(config.context_encoder, 32, config.context_weights)
    world.part(config.batch)


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
            footprint=config.share if config.align == "footprint" else None,
            frozen=config.frozen_norm,
            context_learns=config.context_learns,
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
    """A window that shows a class, the classes in turn, somewhere within; mirrored and turned with its surroundings."""
    ground, middle = draw_place(grounds, number, random)
    size = ground.grid.width, ground.grid.height
    free = np.maximum(np.array(size) - config.window, 0)
    left, top = np.clip(middle - random.uniform(0, config.window, 2), 0, free).astype(np.int64).tolist()
    inputs = dict(cut_windows(ground.grid, lay_example(size, left, top, config, random), np.array([0]), Clock()))
    mask = cut_classes(ground.slide, Box(left, top, left + config.window, top + config.window), size)
    turns, mirror, stain = int(random.integers(4)), bool(random.integers(2)), int(random.integers(1 << 32))
    colour = augment.COLOURS[config.colour]
    turned: dict[str, Any] = {}
    for name, (values,) in inputs.items():
        if name == "place":
            turned[name] = augment.turn_place(values, config.share, turns, mirror)
        else:  # one stain for both
            turned[name] = colour(augment.turn(values, turns, mirror), np.random.default_rng(stain))
    return Example(turned, augment.turn(mask, turns, mirror).astype(np.int64), ground.slide.name)


def draw_place(grounds: list[Ground], number: int, random: Random) -> tuple[Ground, NDArray[np.float64]]:
    """A slide and a place on it that shows a class, of those that there are the number-th in turn."""
    classes = range(len(grounds[0].places))
    present = [each for each in classes if any(len(ground.places[each]) for ground in grounds)]
    wanted = present[number % len(present)]
    ends = np.cumsum([len(ground.places[wanted]) for ground in grounds])
    chosen = int(random.integers(ends[-1]))
    at = int(np.searchsorted(ends, chosen, side="right"))
    places = grounds[at].places[wanted]
    return grounds[at], places[chosen - ends[at] + len(places)]


def lay_example(size: Size, left: int, top: int, config: DaRefineNetConfig, random: Random) -> Plan:
    """The window at a place of a grid of `size` with its surroundings, as the engine lays them out; those that windows
    share begin anywhere where the engine's might.
    """
    view = View(1.0, False, *size, (), ())
    one = np.zeros(1, np.int64)
    fine = Layer(InputSpec("fine", config.window), size, (view,), np.array([[0, left, top]]), one, one)
    if config.context == "none":
        return Plan((fine,), 0)
    placed = config.align == "footprint"
    around = InputSpec("context", config.context_side, config.factor, config.anchor, placed)
    if config.anchor == "centre":
        return Plan((fine, lay_around(fine, around)), 0)
    step = lattice_step(config.context_side, config.window, config.factor)
    first = np.array([[left, top]]) / config.factor
    starts = np.floor(first - random.uniform(0, step, 2)).astype(np.int64)
    return Plan((fine, lay_at(fine, around, starts)), 0)


def cut_classes(slide: LabelledSlide, box: Box, grid: Size) -> NDArray[np.uint8]:
    """The classes of a box of the grid, `IGNORE` beyond the slide."""
    inside = Box(box.left, box.top, min(box.right, grid[0]), min(box.bottom, grid[1]))
    (width, height), (shown_width, shown_height) = box.size, inside.size
    classes = np.full((height, width), IGNORE, np.uint8)
    classes[:shown_height, :shown_width] = slide.truth.cut(inside, grid)
    return classes


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
    check(config, world)
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
        learning = [(name, each) for name, each in network.named_parameters() if each.requires_grad]
        encoders = [each for name, each in learning if ".encoder." in name]
        others = [each for name, each in learning if ".encoder." not in name]
        return [Group(encoders, config.encoder_rate), Group(others, 1.0)]

    fit(Task(start, draw, segmentation_loss, pictures.show_dual, groups=groups), config, run, world, progress)
