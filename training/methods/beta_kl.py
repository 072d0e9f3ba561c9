"""Beta-KL: maps of disease from slide labels alone (Pinchaud).

A patch inherits its slide's label, which is wrong where a malign slide shows healthy tissue. A divergence that forgives
such labels, and patches drawn where the network already suspects disease, let pixels be learned all the same. Read
downwards: settings, network, patches, loss, maps, loop.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from glassrt.engine.bundles.tensors import Signature, TensorSpec
from glassrt.engine.errors import DatasetError
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.slides.slide import Pixels
from glassrt.training import augment, checkpoint, losses, mapping
from glassrt.training.config import Count, Number, Schedule, Share, Weight
from glassrt.training.datasets import camelyon16, weak, weak_mosaic
from glassrt.training.datasets.weak import WeakSlide
from glassrt.training.loop import Example, Group, Random, Task, fit
from glassrt.training.mapping import MALIGN, Ground, map_slide
from glassrt.training.methods.oeem import Stage
from glassrt.training.networks.encoders import check_encoder, load_weights
from glassrt.training.networks.unet import ENCODER_STRIDE, AutoEncoder, Design, UNet
from glassrt.training.run import Run
from glassrt.training.suspects import Maps
from glassrt.training.suspicion import Suspicions
from glassrt.training.torch_backend import TorchBackend
from glassrt.training.windows import PIECE
from glassrt.training.world import World

METHOD = "beta-kl"
SETS: dict[str, Any] = {"camelyon16": camelyon16, "mosaic": weak_mosaic, "labels": weak}
PRETRAINING = "pretraining"  # folder of a run, where its auto-encoder is trained
MAP_BATCH = 4
HOLDS, FREE, UNTOLD = 1, 0, -1  # whether a patch shows tumour
Side = Annotated[int, Meta(ge=32, multiple_of=32)]


class BetaKlConfig(Schedule, frozen=True, kw_only=True):
    """What one network learns from. A step's patches are half of malign slides, half of benign ones."""

    dataset: Literal["camelyon16", "mosaic", "labels"]
    split: str = "train"
    mpp: Annotated[float, Meta(gt=0, le=32)]
    patch: Side
    window: Side  # of maps, and of the exported network
    encoder: str | UnsetType = UNSET  # unset: the paper's separable one
    weights: str = "imagenet"  # or "random", or a file; of an `encoder`
    encoder_rate: Weight = 1.0  # share of the learning rate that it learns at; at 0 it stays as it starts
    filters: Annotated[int, Meta(ge=4, le=256)] = 32
    pretrain_steps: Number = 0  # of an auto-encoder that the paper's network starts from
    # Powers of the divergence, benign and malign: (0, 0) is Kullback-Leibler's; `noise` gives the second one instead,
    # so that of healthy patches that share `false_alarm` of probability is malign.
    beta: tuple[Share, Share] | UnsetType = UNSET
    noise: Annotated[float, Meta(gt=0, lt=1)] | UnsetType = UNSET
    false_alarm: Annotated[float, Meta(gt=0, lt=0.5)] = 0.05
    beta_rise_steps: Number = 0
    eta: Annotated[float, Meta(gt=0, le=100)] = 50.0  # percent of a patch's pixels that speak for disease
    alpha: Annotated[float, Meta(ge=0, le=16)] = 2.0  # at 0 patches are drawn uniformly
    map_mpp: Annotated[float, Meta(gt=0)] = 8.0
    renew_steps: Count  # between one network that maps are made with and the next
    mapping: Literal["within", "beside"] = "within"  # by this process between steps, or by another all the while
    rotate: bool = True
    elastic: Weight = 0.0  # micrometres that places are displaced by
    colour: augment.Colour

    def __post_init__(self) -> None:
        if (self.beta is UNSET) == (self.noise is UNSET):
            raise ValueError("set beta or noise, one of both")
        if self.batch % 2:
            raise ValueError(f"batch {self.batch} is odd: half of the patches are of malign slides")
        if not self.encoder_rate and self.encoder is UNSET and not self.pretrain_steps:
            raise ValueError("encoder_rate 0: an encoder that starts from random weights has to learn")
        if self.pretrain_steps and self.encoder is not UNSET:
            raise ValueError(f"pretrain_steps: {self.encoder} starts from its weights, not from an auto-encoder")
        if self.map_mpp < self.mpp:
            raise ValueError(f"map_mpp {self.map_mpp:g} is finer than mpp {self.mpp:g}: nothing to gain")
        _ = self.betas  # raises ValueError

    @property
    def betas(self) -> tuple[float, float]:
        """The powers that the divergence ends with."""
        if self.beta is not UNSET:
            return self.beta
        assert self.noise is not UNSET
        try:
            return 0.0, losses.beta_for(self.noise, 0.5, self.false_alarm)
        except ValueError as error:
            raise ValueError(f"noise {self.noise:g} with false_alarm {self.false_alarm:g}: {error}") from error

    @property
    def design(self) -> Design:
        """The network, but for its classes."""
        encoder = None if self.encoder is UNSET else self.encoder
        return Design(self.filters, encoder=encoder, frozen=encoder is not None, encoder_learns=self.encoder_rate > 0)


def find_slides(config: BetaKlConfig, data: Path) -> list[WeakSlide]:
    """The slides to learn from. Raises DatasetError."""
    slides: list[WeakSlide] = SETS[config.dataset].find_slides(data, config.split)
    if len({each.malign for each in slides}) < 2:
        raise DatasetError(f"{data}: all slides have one label; benign and malign ones are needed")
    return slides


def check(config: BetaKlConfig, world: World) -> None:
    """Raise TrainingError if training with these settings cannot begin."""
    if config.encoder is not UNSET:
        check_encoder(config.encoder, 32, config.weights)
    world.part(config.batch)


def build_network(config: BetaKlConfig) -> UNet:
    """The network, with random weights."""
    return UNet(len(weak.CLASSES), config.design)


def load_start(network: UNet, config: BetaKlConfig, folder: Path) -> None:
    """Start from an encoder's weights, or from the auto-encoder that was trained in `folder` before."""
    if config.encoder is not UNSET:
        load_weights(network.encoder, config.encoder, config.weights)
    if config.pretrain_steps:
        file = folder / PRETRAINING / "model.safetensors"
        source = AutoEncoder(config.design)
        checkpoint.load_into(source, checkpoint.load(file)[0], file)
        network.start_from(source)


def output_stride(config: BetaKlConfig) -> int:
    """Pixels of a window per logit."""
    return 1 if config.encoder is UNSET else ENCODER_STRIDE


def signature(config: BetaKlConfig) -> Signature:
    """What the network takes of a slide and gives for it."""
    side = config.window // output_stride(config)
    image = TensorSpec("image", "uint8", (None, config.window, config.window, 3))
    return Signature((image,), (TensorSpec("logits", "float32", (None, len(weak.CLASSES), side, side)),))


def draw_patch(ground: Ground, x: float, y: float, config: BetaKlConfig, random: Random) -> Example:
    """The patch around a place of a slide, varied; its label says whether the slide is malign, and whether the patch
    shows tumour as far as that is known. A place near the slide's border has its patch beside it.
    """
    grid, side = ground.grid, config.patch
    left, top = (
        min(max(0, round(share * length - side / 2)), length - side)
        for share, length in ((x, grid.width), (y, grid.height))
    )
    seen = Box(left, top, left + side, top + side)
    margin = math.ceil((math.sqrt(2) - 1) / 2 * side) if config.rotate else 0
    pixels = augment.deform(read_around(ground, seen, margin), side, config.elastic / config.mpp, config.rotate, random)
    label = np.array([ground.slide.malign, tell_tumour(ground, seen)], np.int64)
    return Example(augment.COLOURS[config.colour](pixels, random), label, ground.slide.name)


def read_around(ground: Ground, box: Box, margin: int) -> Pixels:
    """A part of the grid and so many pixels around it, reflected beyond the slide."""
    grid = ground.grid
    wide = Box(box.left - margin, box.top - margin, box.right + margin, box.bottom + margin)
    there = Box(max(0, wide.left), max(0, wide.top), min(grid.width, wide.right), min(grid.height, wide.bottom))
    pixels = grid.read(there.left, there.top, *there.size)
    missing = (
        (there.top - wide.top, wide.bottom - there.bottom),
        (there.left - wide.left, wide.right - there.right),
        (0, 0),
    )
    return np.pad(pixels, missing, "reflect")


def tell_tumour(ground: Ground, box: Box) -> int:
    """Whether a part of a slide shows tumour."""
    if not ground.slide.malign:
        return FREE
    if ground.slide.truth is None:
        return UNTOLD
    classes = ground.slide.truth.cut(box, (ground.grid.width, ground.grid.height))
    return HOLDS if (classes == MALIGN).any() else FREE


def divergence(config: BetaKlConfig) -> Callable[[nn.Module, Tensor, Tensor, int], Mapping[str, Tensor]]:
    """The loss of a batch; beside it is logged which share of the patches of malign slides shows tumour."""

    def loss(network: nn.Module, pixels: Tensor, labels: Tensor, step: int) -> Mapping[str, Tensor]:
        malign, shown = labels.unbind(1)
        beta = losses.beta_at(step, config.betas, config.beta_rise_steps)
        value = losses.beta_kl(network(pixels), F.one_hot(malign, 2).float(), beta, config.eta)
        return {"divergence": value, "purity": shown[(malign == 1) & (shown != UNTOLD)].float().mean()}

    return loss


def reconstruction(network: nn.Module, pixels: Tensor, labels: Tensor, step: int) -> Tensor:
    """The mean square of what is rebuilt otherwise than it was."""
    alone = network.module if isinstance(network, DistributedDataParallel) else network
    assert isinstance(alone, AutoEncoder)
    return F.mse_loss(losses.full_precision(network(pixels)), alone.normalise(pixels))


def train(
    config: BetaKlConfig,
    slides: list[WeakSlide],
    folder: Path,
    world: World,
    stage: Stage = lambda name, steps: lambda step, loss: None,
) -> None:
    """Train on `slides` to the end, resuming in `folder`; leaves `folder/model.safetensors`.

    Raises TrainingError, and DatasetError for slides that nothing can be learned from.
    """
    check(config, world)
    grounds = open_grounds(config, slides)
    told = identify(config, grounds)
    run = Run(folder, told)
    if run.is_finished():
        return
    beside = config.mapping == "beside"
    maps = Maps(grounds, folder, told, config.alpha, config.renew_steps, config.save_every, beside, world)

    def draw(number: int, random: Random) -> Example:
        place = maps.at(number // config.batch).draw(number, config.seed, random)
        return draw_patch(grounds[place.number], place.x, place.y, config, random)

    def draw_anywhere(number: int, random: Random) -> Example:
        place = maps.at(0).draw(number, config.seed, random)
        return draw_patch(grounds[place.number], place.x, place.y, config, random)

    def start() -> nn.Module:
        network = build_network(config)
        load_start(network, config, folder)
        return network

    def renew(steps: int, network: nn.Module) -> None:
        maps.renew(steps, partial(map_with, config, network), network)

    if config.pretrain_steps:
        before = Run(folder / PRETRAINING, {**told, "method": PRETRAINING})
        if not before.is_finished():
            schedule = msgspec.structs.replace(config, steps=config.pretrain_steps)
            design = config.design._replace(encoder_learns=True)
            learning: Task[Tensor] = Task(partial(AutoEncoder, design), draw_anywhere, reconstruction)
            fit(learning, schedule, before, world, stage("auto-encoder", schedule.steps))
    task = Task(start, draw, divergence(config), groups=partial(group, config), after=renew)
    fit(task, config, run, world, stage("beta-kl", config.steps))


def group(config: BetaKlConfig, network: nn.Module) -> list[Group]:
    """The encoder learns at a rate of its own."""
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, each in network.named_parameters():
        parts[name.startswith("encoder.")].append(each)
    rates = {True: config.encoder_rate, False: 1.0}
    return [Group(parts[which], rate) for which, rate in rates.items() if rate]


def open_grounds(config: BetaKlConfig, slides: Sequence[WeakSlide]) -> list[Ground]:
    """The slides at the resolution that is learned at. Raises DatasetError, SlideError and TrainingError."""
    return mapping.open_grounds(slides, config.mpp, config.map_mpp, config.patch)


def identify(config: BetaKlConfig, grounds: Sequence[Ground]) -> dict[str, str]:
    """Which run this is: its settings, and the sha256 of what tells its slides and labels apart."""
    content = hashlib.sha256()
    for ground in grounds:
        slide = ground.slide
        content.update(f"{slide.name} {slide.malign} {slide.path.stat().st_size}\n".encode())
        with slide.path.open("rb") as file:
            content.update(file.read(PIECE))
    settings = msgspec.json.encode(config).decode()
    return {"method": METHOD, "config": settings, "slides": content.hexdigest()}


def map_with(config: BetaKlConfig, network: nn.Module, ground: Ground, tissue: NDArray[np.bool_]) -> Suspicions:
    """A slide's map by a network that lies in this process."""
    backend = TorchBackend(network, signature(config), MAP_BATCH)
    return map_slide(ground, tissue, backend, config.window, output_stride(config))
