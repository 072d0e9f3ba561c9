"""Distill-to-Label: labels of instances from labels of bags (Li et al.).

A teacher learns which bags are positive, kept from leaning on a few instances by noise, perturbation and sub-bags. A
student learns from the bags' labels and from what the teacher says of single instances. Read downwards: settings,
bags, baseline and teacher, student.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
import torch
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray
from torch import Tensor, nn

from glassrt.engine.errors import TrainingError
from glassrt.training import augment, checkpoint
from glassrt.training.bag_changes import NoiseRange, Regularisation, draw_changes
from glassrt.training.bag_folds import fold_bags
from glassrt.training.bag_losses import Distillation, distilled, regularised
from glassrt.training.config import Count, Number, Schedule, Strict
from glassrt.training.datasets import crchisto, mnist_bags, ucsb
from glassrt.training.datasets.bag import LabelledBag
from glassrt.training.folds import Fold
from glassrt.training.loop import Bags, Example, Random, Task, fit, shuffled
from glassrt.training.methods.oeem import Stage
from glassrt.training.networks.bag_head import Pooling
from glassrt.training.networks.encoders import check_encoder, load_weights
from glassrt.training.networks.extractors import LAYOUTS, PooledEncoder
from glassrt.training.networks.mil import Design, MilNetwork, Predicted
from glassrt.training.run import Run
from glassrt.training.world import World

METHOD = "distill-to-label"
CLASSES = {"mnist-bags": mnist_bags.CLASSES, "crchisto": crchisto.CLASSES, "ucsb": ucsb.CLASSES}
SIDES = {"mnist-bags": 28, "crchisto": crchisto.SIDE, "ucsb": ucsb.SIDE}
STAGES = ("mil", "teacher", "student")  # folders of a run, in the order that they are trained in
MNIST_TESTED = 1000  # bags, as Distill-to-Label's section III.B tests on
PLAIN = Regularisation(noise=0.0, ball=0.0, entropy=0.0)
Kind = Literal["mil", "teacher", "student"]


class MnistConfig(Strict, frozen=True, kw_only=True):
    """Bags of MNIST: how many, of what mean size, as many positive as negative ones or as chance has it."""

    bags: Count
    size: Annotated[float, Meta(ge=1)]
    balanced: bool
    seed: Number = 1


class FoldConfig(Strict, frozen=True, kw_only=True):
    """Which of the five folds, drawn with this seed, is left out."""

    fold: Annotated[int, Meta(ge=0, le=4)] = 0
    seed: Number = 1


class DistillConfig(Strict, frozen=True, kw_only=True):
    """All three networks; a stage is trained where it has a schedule, the student after its teacher."""

    dataset: Literal["mnist-bags", "crchisto", "ucsb"]
    mnist: MnistConfig | UnsetType = UNSET
    folds: FoldConfig | UnsetType = UNSET
    encoder: str  # lenet5, conv2, conv5, or an encoder by name
    weights: str = "imagenet"  # of an encoder by name
    frozen_norm: bool = True
    pooling: Pooling = "attention"
    attention: Count = 128
    most_instances: Count | UnsetType = UNSET  # of a bag in one step; unset: all
    turn: bool = False  # instances mirrored and turned by quarters
    colour: augment.Colour = "none"
    mil: Schedule | UnsetType = UNSET
    teacher: Schedule | UnsetType = UNSET
    student: Schedule | UnsetType = UNSET
    regularisation: Regularisation = Regularisation()
    distillation: Distillation = Distillation()

    def __post_init__(self) -> None:
        given, other = ("mnist", "folds") if self.dataset == "mnist-bags" else ("folds", "mnist")
        if getattr(self, given) is UNSET or getattr(self, other) is not UNSET:
            raise ValueError(f"dataset {self.dataset} needs [{given}] and has no [{other}]")
        if self.student is not UNSET and self.teacher is UNSET:
            raise ValueError("[student] needs [teacher], which it learns from")
        if self.mil is UNSET and self.teacher is UNSET:
            raise ValueError("nothing to train: set [mil] or [teacher]")
        if self.encoder in LAYOUTS and LAYOUTS[self.encoder].side != SIDES[self.dataset]:
            side = LAYOUTS[self.encoder].side
            raise ValueError(f"encoder {self.encoder} takes {side} pixels; those of {self.dataset} have other sides")

    @property
    def design(self) -> Design:
        """What each of the networks is made of."""
        return Design(self.encoder, None, self.pooling, self.attention, self.frozen_norm)


class Parts(NamedTuple):
    """Bags to learn from, to choose thresholds by, and to score."""

    train: Sequence[LabelledBag]
    validation: Sequence[LabelledBag]
    test: Sequence[LabelledBag]


def load_bags(config: DistillConfig, data: Path) -> Parts:
    """The bags of the set in their parts. MNIST's have no validation, and 1000 test bags of other digits.

    Raises DatasetError, and TrainingError for folds that cannot be made.
    """
    if config.mnist is not UNSET:
        asked = config.mnist
        made = (
            mnist_bags.make_bags(mnist_bags.read_digits(data, split), count, asked.size, asked.seed, asked.balanced)
            for split, count in (("train", asked.bags), ("test", MNIST_TESTED))
        )
        train, test = made
        return Parts(train, (), test)
    assert config.folds is not UNSET
    bags = (crchisto if config.dataset == "crchisto" else ucsb).read_bags(data)
    fold: Fold = fold_bags(bags, config.folds.seed)[config.folds.fold]
    return Parts(*([bags[index] for index in part] for part in fold))


def check(config: DistillConfig, world: World) -> None:
    """Raise TrainingError if training with these settings cannot begin."""
    if config.encoder not in LAYOUTS:
        check_encoder(config.encoder, 32, config.weights)
    for schedule in (config.mil, config.teacher, config.student):
        if schedule is not UNSET:
            world.part(schedule.batch, least=1)


def build_network(config: DistillConfig) -> MilNetwork:
    """The network of every stage, with random weights. Raises TrainingError."""
    return MilNetwork(len(CLASSES[config.dataset]), config.design)


def draw_bag(bag: LabelledBag, config: DistillConfig, random: Random) -> Example:
    """A bag, or as many of its instances as are learned from at once, each varied by itself.

    A positive bag may lose its positive instances so, as seldom as they are many: labels of large bags bear it.
    """
    count, most = len(bag.instances), config.most_instances
    chosen = np.arange(count)
    if most is not UNSET and count > most:
        chosen = np.sort(random.choice(count, most, replace=False))
    colour = augment.COLOURS[config.colour]

    def vary(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        turned = augment.turn(pixels, int(random.integers(4)), bool(random.integers(2))) if config.turn else pixels
        return colour(turned, random)

    varied = np.stack([vary(each) for each in bag.instances[chosen]])
    return Example(varied, np.array(bag.label, np.int64), bag.name)


class Pixels(NamedTuple):
    """Of the instances that are learned from: each channel's mean and deviation, and the lowest and highest value."""

    mean: Tensor
    deviation: Tensor
    range: NoiseRange


def measure_pixels(bags: Sequence[LabelledBag]) -> Pixels:
    """The statistics of the training bags' pixels."""
    levels = np.zeros((3, 256))
    for bag in bags:
        for channel in range(3):
            levels[channel] += np.bincount(bag.instances[..., channel].ravel(), minlength=256)
    sums = levels @ np.vander(np.arange(256.0), 3, increasing=True)
    mean, square = sums[:, 1] / sums[:, 0], sums[:, 2] / sums[:, 0]
    deviation = np.sqrt(square - mean**2).clip(min=1.0)  # of channels that never change
    low = (levels > 0).argmax(1)
    high = 255 - (levels[:, ::-1] > 0).argmax(1)
    tensors = (torch.from_numpy(each).float() for each in (mean, deviation, low, high))
    first, second, lowest, highest = tensors
    return Pixels(first, second, NoiseRange(lowest, highest))


def train(config: DistillConfig, bags: Sequence[LabelledBag], folder: Path, world: World, stage: Stage) -> None:
    """Train every stage that has a schedule to its end, resuming in `folder`; each leaves `STAGE/model.safetensors`.

    Raises TrainingError.
    """
    check(config, world)
    if len({bag.label for bag in bags}) < 2:
        raise TrainingError("all bags to learn from have one label: take another seed of the folds, or more bags")
    pixels = measure_pixels(bags)
    told = {"bags": digest(bags)}
    if config.mil is not UNSET:
        learn_bags(config, "mil", config.mil, PLAIN, bags, pixels, folder, told, world, stage)
    if config.teacher is not UNSET:
        learn_bags(config, "teacher", config.teacher, config.regularisation, bags, pixels, folder, told, world, stage)
    if config.student is not UNSET:
        learn_instances(config, config.student, bags, folder, told, world, stage)


def learn_bags(
    config: DistillConfig,
    kind: Kind,
    schedule: Schedule,
    terms: Regularisation,
    bags: Sequence[LabelledBag],
    pixels: Pixels,
    folder: Path,
    told: Mapping[str, str],
    world: World,
    stage: Stage,
) -> None:
    """The teacher (Eq. 3), or without its regularising terms the baseline that it is held against."""

    def draw(number: int, random: Random) -> Example:
        return draw_bag(bags[shuffled(number, len(bags), schedule.seed)], config, random)

    def start() -> nn.Module:
        network = build_network(config)
        if config.encoder in LAYOUTS:
            network.normalise_by(pixels.mean, pixels.deviation)
        elif isinstance(network.encoder, PooledEncoder):
            load_weights(network.encoder.encoder, config.encoder, config.weights)
        return network

    def loss(network: nn.Module, given: Bags, labels: Tensor, step: int) -> Mapping[str, Tensor]:
        changes = draw_changes(
            given, terms, pixels.range, torch.Generator().manual_seed(seed_of(schedule, step, world))
        )
        predicted: Predicted = network(given, changes)
        return regularised(predicted, labels, terms)

    run = Run(folder / kind, identify(config, kind, schedule, told))
    if not run.is_finished():
        task: Task[Bags] = Task(start, draw, loss, least=1)
        fit(task, schedule, run, world, stage(kind, schedule.steps))


def learn_instances(
    config: DistillConfig,
    schedule: Schedule,
    bags: Sequence[LabelledBag],
    folder: Path,
    told: Mapping[str, str],
    world: World,
    stage: Stage,
) -> None:
    """The student (Eq. 5), which starts as its teacher."""
    file = folder / "teacher" / "model.safetensors"
    tensors = checkpoint.load(file)[0]
    teacher = build_network(config)
    checkpoint.load_into(teacher, tensors, file)
    teacher.to(world.device).eval().requires_grad_(False)

    def draw(number: int, random: Random) -> Example:
        return draw_bag(bags[shuffled(number, len(bags), schedule.seed)], config, random)

    def start() -> nn.Module:
        network = build_network(config)
        checkpoint.load_into(network, tensors, file)
        return network

    def loss(network: nn.Module, given: Bags, labels: Tensor, step: int) -> Mapping[str, Tensor]:
        student: Predicted = network(given)
        with torch.no_grad():
            taught: Predicted = teacher(given)
        return distilled(student, taught, given.sizes, labels, config.distillation)

    run = Run(folder / "student", identify(config, "student", schedule, told))
    if not run.is_finished():
        task: Task[Bags] = Task(start, draw, loss, least=1)
        fit(task, schedule, run, world, stage("student", schedule.steps))


def seed_of(schedule: Schedule, step: int, world: World) -> int:
    """What the changes of a step are drawn with, in each process others."""
    return schedule.seed * 1_000_003 + step * world.size + world.rank


def identify(config: DistillConfig, kind: Kind, schedule: Schedule, told: Mapping[str, str]) -> dict[str, str]:
    """Which run of a stage this is: all settings that what it learns depends on, and its bags."""
    learned = {"mil": (), "teacher": ("regularisation",), "student": ("regularisation", "teacher", "distillation")}[
        kind
    ]
    left = {*STAGES, "regularisation", "distillation"} - {*learned}
    settings = {name: value for name, value in msgspec.to_builtins(config).items() if name not in left}
    settings["schedule"] = msgspec.to_builtins(schedule)
    return {"method": METHOD, "stage": kind, "config": msgspec.json.encode(settings).decode(), **told}


def digest(bags: Sequence[LabelledBag]) -> str:
    """The sha256 of bags' names, labels and pixels: a run belongs to those it began with."""
    content = hashlib.sha256()
    for bag in bags:
        content.update(f"{bag.name} {bag.label} {bag.instances.shape}\n".encode())
        content.update(bag.instances.tobytes())
    return content.hexdigest()
