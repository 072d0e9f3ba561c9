"""DA-RefineNet: segmentation of a fine window in sight of its surroundings (Li et al.).

The same texture is labelled differently at different places, so a second encoder sees the place at low resolution.
Read downwards: settings, network, windows and their surroundings, loss, loop.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
from msgspec import UNSET, Meta, UnsetType
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.engine.bundles.kinds.dual import LARGEST_FEATURES
from glassrt.engine.bundles.parts import Resolution
from glassrt.engine.errors import TrainingError
from glassrt.engine.geometry.plan import InputSpec, lattice_step
from glassrt.training import augment, losses, pictures
from glassrt.training.config import Count, Schedule, Weight
from glassrt.training.datasets import bach, mosaic
from glassrt.training.datasets.labelled import LabelledSlide
from glassrt.training.loop import Bags, Example, Group, Progress, Random, Task, fit
from glassrt.training.networks.encoders import check_encoder, load_weights
from glassrt.training.networks.refinenet import DARefineNet, Design
from glassrt.training.run import Run
from glassrt.training.windows import Look, digest, draw_example, open_ground
from glassrt.training.world import World

METHOD = "da-refinenet"
SETS: dict[str, Any] = {"bach": bach, "mosaic": mosaic}
Side = Annotated[int, Meta(ge=32, multiple_of=4)]


class DaRefineNetConfig(Schedule, frozen=True, kw_only=True):
    """What one network learns from. `learning_rate` is the decoder's, `phases` are the paper's steps."""

    dataset: Literal["bach", "mosaic"]
    split: str = "train"
    mpp: Resolution
    window: Side
    # What the second input shows: nothing (the single-input control), the surroundings, or the same at half the size
    # (the multi-size control).
    context: Literal["none", "surroundings", "same"]
    context_factor: Annotated[float, Meta(gt=1, le=64)] = 5.0  # a context pixel's side in fine pixels
    context_window: Side | UnsetType = UNSET  # pixels of a context's side; unset: as many as the window's
    context_anchor: Literal["tile", "centre"] = "tile"
    windows: Count = 1  # that are drawn under the same surroundings
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
    # Shares of the learning rate that the encoders learn at; at 0 they stay as they start.
    encoder_rate: Weight = 0.1
    context_rate: Weight = 0.1
    colour: augment.Colour

    def __post_init__(self) -> None:
        if self.align == "footprint" and (self.context != "surroundings" or self.fusion == "attention_pooled"):
            raise ValueError("align footprint needs a context of surroundings, and a fusion that is given its maps")
        if self.context_side * self.factor < self.window:
            raise ValueError("context_window x context_factor: surroundings have to show all of a window")
        if self.look.reach < self.window:
            raise ValueError("context_window x context_factor, which windows lie within, is less than a window")
        if self.anchor == "tile" and lattice_step(self.context_side, self.window, self.factor) < 1:
            raise ValueError(f"context_factor {self.factor:g} is too small for windows to share surroundings")
        if self.windows > 1 and self.anchor == "centre" and self.context == "surroundings":
            raise ValueError("windows > 1 share surroundings, which context_anchor centre gives to one alone")

    @property
    def factor(self) -> float:
        """A context pixel's side in fine pixels."""
        return 2.0 if self.context == "same" else self.context_factor

    @property
    def look(self) -> Look:
        """What an example shows."""
        shared = self.context_window if self.context_window is not UNSET else self.window
        around = InputSpec("context", self.context_side, self.factor, self.anchor, self.align == "footprint")
        return Look(
            self.window,
            self.windows,
            None if self.context == "none" else around,
            shared * self.context_factor,  # as far apart for the controls
            self.colour,
        )

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
    with torch.device("meta"):
        network = build_network(config).eval()
        if network.context is not None:
            features = network.context(torch.zeros(1, 3, config.context_side, config.context_side))
            if 4 * sum(each.numel() for each in features) > LARGEST_FEATURES:
                raise TrainingError(
                    "the features of one context are more than a bundle may hold: lower widths or context_window, or "
                    "take fusion attention_pooled"
                )


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
            footprint=config.window / (config.factor * config.context_side) if config.align == "footprint" else None,
            frozen=config.frozen_norm,
            encoder_learns=config.encoder_rate > 0,
            context_learns=config.context_rate > 0,
            dropout=config.dropout,
        ),
    )


def load_start(network: DARefineNet, config: DaRefineNetConfig) -> None:
    """Start the encoders from their weights."""
    load_weights(network.fine.encoder, config.encoder, config.weights)
    if network.context is not None:
        load_weights(network.context.encoder, config.context_encoder, config.context_weights)


def segmentation_loss(network: nn.Module, inputs: dict[str, Any], labels: Tensor, step: int) -> Tensor:
    """Eqs. 9 and 16: cross-entropy of the logits upsampled to the labels, which are those of each example's windows."""
    labels = labels.flatten(0, 1)
    logits = losses.full_precision(network(**join_windows(inputs)))
    logits = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    return losses.cross_entropy(logits, labels)


def join_windows(inputs: dict[str, Any]) -> dict[str, Tensor]:
    """The windows of all examples one after the other, as the network takes them."""
    return {name: each.instances if isinstance(each, Bags) else each for name, each in inputs.items()}


def show(network: nn.Module, inputs: dict[str, Any], labels: Tensor) -> pictures.Picture:
    """The first windows of a batch."""
    return pictures.show_dual(network, join_windows(inputs), labels.flatten(0, 1))


def train(
    config: DaRefineNetConfig,
    slides: list[LabelledSlide],
    folder: Path,
    world: World,
    progress: Progress = lambda step, loss: None,
) -> None:
    """Train on `slides` to the end, resuming in `folder`; leaves `folder/model.safetensors`.

    Raises TrainingError, and DatasetError for slides that nothing can be learned from.
    """
    check(config, world)
    grounds = [open_ground(slide, len(SETS[config.dataset].CLASSES), config.mpp) for slide in slides]
    settings = {"config": msgspec.json.encode(config).decode(), "slides": digest(grounds)}
    run = Run(folder, {"method": METHOD, **settings})
    if run.is_finished():
        return
    look = config.look

    def draw(number: int, random: Random) -> Example:
        return draw_example(grounds, look, number, random)

    def start() -> nn.Module:
        network = build_network(config)
        load_start(network, config)
        return network

    def groups(network: nn.Module) -> list[Group]:
        """Encoders learn slower: they start from ImageNet."""
        rates = {"fine.encoder.": config.encoder_rate, "context.encoder.": config.context_rate, "": 1.0}
        grouped: dict[str, list[nn.Parameter]] = {part: [] for part in rates}
        for name, each in network.named_parameters():
            grouped[next(part for part in rates if name.startswith(part))].append(each)
        return [Group(grouped[part], rate) for part, rate in rates.items() if grouped[part] and rate]

    fit(Task(start, draw, segmentation_loss, show, groups=groups), config, run, world, progress)
