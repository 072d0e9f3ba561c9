"""Distill-to-Label: labels of instances from labels of bags (Li et al.).

A teacher learns which bags are positive, kept from leaning on a few instances by noise, perturbation and sub-bags. A
student learns from the bags' labels and from what the teacher says of single instances. Instances are pictures, or
features that were stored before, of which the head alone learns. Read downwards: settings, what a step sees of a bag,
baseline and teacher, student; which bags there are stands in `bag_sets`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray
from torch import Tensor, nn

from glassrt.engine.errors import TrainingError
from glassrt.engine.geometry.boxes import Indices
from glassrt.training import augment, checkpoint
from glassrt.training.bag_changes import Regularisation, draw_changes
from glassrt.training.bag_losses import Distillation, distilled, regularised
from glassrt.training.bag_sets import (
    SIDES,
    STORED,
    BagSet,
    FoldConfig,
    MnistConfig,
    digest,
    feature_length,
    fingerprint,
    load_bags,
)
from glassrt.training.bag_statistics import Statistics, measure
from glassrt.training.config import Count, Schedule
from glassrt.training.datasets.bag import LabelledBag
from glassrt.training.datasets.features import find_making
from glassrt.training.datasets.stored import StoredInstances
from glassrt.training.loop import Bags, Example, Random, Task, fit, shuffled
from glassrt.training.methods.oeem import Stage
from glassrt.training.networks.bag_head import Pooling
from glassrt.training.networks.encoders import check_encoder, load_weights
from glassrt.training.networks.extractors import LAYOUTS, PooledEncoder
from glassrt.training.networks.mil import Design, MilNetwork, Predicted
from glassrt.training.run import Run
from glassrt.training.world import World

# With them a run is set.
__all__ = ["STAGES", "DistillConfig", "FoldConfig", "MnistConfig", "build_network", "check", "load_bags", "train"]

METHOD = "distill-to-label"
STAGES = ("mil", "teacher", "student")  # folders of a run, in the order that they are trained in
PLAIN = Regularisation(noise=0.0, ball=0.0, entropy=0.0)
Kind = Literal["mil", "teacher", "student"]


class DistillConfig(BagSet, frozen=True, kw_only=True):
    """All three networks; a stage is trained where it has a schedule, the student after its teacher."""

    encoder: str | UnsetType = UNSET  # lenet5, conv2, conv5, or an encoder by name; features have had theirs
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
        super().__post_init__()
        if self.student is not UNSET and self.teacher is UNSET:
            raise ValueError("[student] needs [teacher], which it learns from")
        if self.mil is UNSET and self.teacher is UNSET:
            raise ValueError("nothing to train: set [mil] or [teacher]")
        if (self.encoder is UNSET) != (self.dataset == STORED):
            raise ValueError(f"dataset {self.dataset} {'has no' if self.dataset == STORED else 'needs'} `encoder`")
        if self.encoder is UNSET and (self.turn or self.colour != "none"):
            raise ValueError(f"dataset {self.dataset} has no pixels: leave `turn` and `colour` out")
        if self.encoder in LAYOUTS and LAYOUTS[self.encoder].side != SIDES[self.dataset]:
            side = LAYOUTS[self.encoder].side
            raise ValueError(f"encoder {self.encoder} takes {side} pixels; those of {self.dataset} have other sides")


def check(config: DistillConfig, world: World) -> None:
    """Raise TrainingError if training with these settings cannot begin."""
    if config.encoder is not UNSET and config.encoder not in LAYOUTS:
        check_encoder(config.encoder, 32, config.weights)
    for schedule in (config.mil, config.teacher, config.student):
        if schedule is not UNSET:
            world.part(schedule.batch, least=1)


def build_network(config: DistillConfig, features: int | None = None) -> MilNetwork:
    """The network of every stage, with random weights; `features` is the length of those that were stored before.

    Raises TrainingError.
    """
    encoder = None if config.encoder is UNSET else config.encoder
    design = Design(encoder, features, config.pooling, config.attention, config.frozen_norm)
    return MilNetwork(len(config.class_names), design)


def draw_bag(bag: LabelledBag, config: DistillConfig, random: Random) -> Example:
    """A bag, or as many of its instances as are learned from at once, each varied by itself.

    A positive bag may lose its positive instances so, as seldom as they are many: labels of large bags bear it.
    """
    count, most = bag.instances.shape[0], config.most_instances
    chosen: slice | Indices = slice(None)
    if most is not UNSET and count > most:
        chosen = np.sort(random.choice(count, most, replace=False))
    label, colour = np.array(bag.label, np.int64), augment.COLOURS[config.colour]
    if isinstance(bag.instances, StoredInstances):
        return Example(bag.instances.read(chosen), label, bag.name)

    def vary(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        turned = augment.turn(pixels, int(random.integers(4)), bool(random.integers(2))) if config.turn else pixels
        return colour(turned, random)

    varied = np.stack([vary(each) for each in bag.instances[chosen]])
    return Example(varied, label, bag.name)


def train(config: DistillConfig, bags: Sequence[LabelledBag], folder: Path, world: World, stage: Stage) -> None:
    """Train every stage that has a schedule to its end, resuming in `folder`; each leaves `STAGE/model.safetensors`.

    Raises TrainingError.
    """
    check(config, world)
    if len({bag.label for bag in bags}) < 2:
        raise TrainingError("all bags to learn from have one label: take another seed of the folds, or more bags")
    told = {"bags": digest(bags), "learned_from": " ".join(map(fingerprint, bags))}
    if config.dataset == STORED:
        told["making"] = msgspec.json.encode(find_making(bags)).decode()
    seen = measure(bags)
    if config.mil is not UNSET:
        learn_bags(config, "mil", config.mil, PLAIN, bags, seen, folder, told, world, stage)
    if config.teacher is not UNSET:
        learn_bags(config, "teacher", config.teacher, config.regularisation, bags, seen, folder, told, world, stage)
    if config.student is not UNSET:
        learn_instances(config, config.student, bags, folder, told, world, stage)


def learn_bags(
    config: DistillConfig,
    kind: Kind,
    schedule: Schedule,
    terms: Regularisation,
    bags: Sequence[LabelledBag],
    seen: Statistics,
    folder: Path,
    told: Mapping[str, str],
    world: World,
    stage: Stage,
) -> None:
    """The teacher (Eq. 3), or without its regularising terms the baseline that it is held against."""

    def draw(number: int, random: Random) -> Example:
        return draw_bag(bags[shuffled(number, len(bags), schedule.seed)], config, random)

    def start() -> nn.Module:
        network = build_network(config, feature_length(bags))
        if config.encoder is UNSET or config.encoder in LAYOUTS:
            network.normalise_by(seen.mean, seen.deviation)
        elif isinstance(network.encoder, PooledEncoder):
            load_weights(network.encoder.encoder, config.encoder, config.weights)
        return network

    def loss(network: nn.Module, given: Bags, labels: Tensor, step: int) -> Mapping[str, Tensor]:
        changes = draw_changes(given, terms, seen.range, torch.Generator().manual_seed(seed_of(schedule, step, world)))
        predicted: Predicted = network(given, changes)
        return regularised(predicted, labels, terms.at(step))

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
    teacher = build_network(config, feature_length(bags))
    checkpoint.load_into(teacher, tensors, file)
    teacher.to(world.device).eval().requires_grad_(False)

    def draw(number: int, random: Random) -> Example:
        return draw_bag(bags[shuffled(number, len(bags), schedule.seed)], config, random)

    def start() -> nn.Module:
        network = build_network(config, feature_length(bags))
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
