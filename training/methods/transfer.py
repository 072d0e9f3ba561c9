"""Transfer: classifiers of pathology patches that start from labels of natural images (Teh and Taylor, MIDL 2021).

An encoder learns on PASCAL VOC which pixel is of what, or merely what a picture shows; a classifier of patches starts
from it and learns from few of them. Read downwards: settings, pre-training, patches, the classifier.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from glassrt.engine.files import readable_json, replace_file
from glassrt.engine.geometry.boxes import bands
from glassrt.training import augment, checkpoint, losses
from glassrt.training.batches import Draw, stack
from glassrt.training.config import Schedule, Share, Weight
from glassrt.training.datasets import voc
from glassrt.training.datasets.labelled_patches import LabelledPatches
from glassrt.training.datasets.voc import VocImage
from glassrt.training.loop import Example, Group, Random, Task, fit, shuffled
from glassrt.training.methods.oeem import Stage
from glassrt.training.metrics import IGNORE
from glassrt.training.natural_scores import score_natural
from glassrt.training.networks.deeplab import OUTPUT_STRIDE, DeepLabV2
from glassrt.training.networks.encoders import STRIDES, check_encoder, load_weights
from glassrt.training.networks.tile_classifier import TileClassifier
from glassrt.training.patch_sets import PatchConfig, draw_examples, load_patches, read_patch, tell_mpp, tell_sources
from glassrt.training.run import Run
from glassrt.training.world import World

# With them a run is set.
__all__ = ["TransferConfig", "build_network", "check", "draw_examples", "load_patches", "read_patch", "train"]

METHOD = "transfer"
PRETRAINING, SCORES = "pretraining", "scores.json"  # folder of a run, where its encoder is trained before
THINGS = len(voc.CLASSES) - 1  # the background is no label of a picture
SETTLING = 8  # batches that batch norm's statistics are taken of in the end
PRESENT_SHARE = 0.01  # of a crop's pixels, from which on a kind of thing is a label of the crop


class Pretraining(Schedule, frozen=True, kw_only=True):
    """What the encoder learns on VOC's `train` before: each pixel's class, or which kinds of things a crop shows."""

    task: Literal["segmentation", "classification"]
    crop: Annotated[int, Meta(ge=32)]
    resize: tuple[Annotated[float, Meta(gt=0)], Annotated[float, Meta(gt=0)]]

    def __post_init__(self) -> None:
        if self.resize[0] > self.resize[1]:
            raise ValueError(f"resize {list(self.resize)} must rise")


class TransferConfig(PatchConfig, frozen=True, kw_only=True):
    """What one classifier of patches learns from."""

    shift: Share = 0.0  # by which part of a window it is moved at most, reflected beyond its border
    colour: augment.Colour
    encoder: str
    weights: str = "imagenet"  # or "random", or a file; with [pretraining] it is what that starts from
    encoder_rate: Weight = 1.0  # share of the learning rate that it learns at; at 0 it stays as it starts
    pretraining: Pretraining | UnsetType = UNSET


def check(config: TransferConfig, natural: Path, world: World) -> None:
    """Raise TrainingError if training with these settings cannot begin, DatasetError without VOC in the folder
    `natural` where it is needed.
    """
    before = config.pretraining
    stride = max(STRIDES.get(config.encoder, (32,)))
    if before is not UNSET and before.task == "segmentation":
        stride = OUTPUT_STRIDE
    check_encoder(config.encoder, stride, config.weights)
    world.part(config.batch)
    if before is not UNSET:
        world.part(before.batch)
        for split in voc.LISTS:
            voc.find_images(natural, split)


def pretrain(config: TransferConfig, data: Path, folder: Path, world: World, stage: Stage) -> Path:
    """Train the encoder on VOC in the folder `data`, resuming in `folder`; returns the file of the network's weights.

    Beside it `scores.json` has its mIoU or mAP on `val`. Raises DatasetError and TrainingError.
    """
    before = config.pretraining
    assert before is not UNSET
    images, tested = voc.find_images(data, "train"), voc.find_images(data, "val")
    settings = {"encoder": config.encoder, "weights": config.weights, **msgspec.to_builtins(before)}
    told = {
        "config": msgspec.json.encode(settings).decode(),
        "images": hashlib.sha256(" ".join(each.image_path.name for each in images).encode()).hexdigest(),
        "start": tell_start(config.weights)[0],
    }
    run = Run(folder, {"method": PRETRAINING, **told})
    if not run.is_finished():
        (folder / SCORES).unlink(missing_ok=True)
        loss = segmentation_loss if before.task == "segmentation" else presence_loss
        task: Task[Tensor] = Task(partial(start_natural, config), partial(draw_crop, images, before), loss)
        fit(task, before, run, world, stage(f"VOC {before.task}", before.steps))
    if world.leads and not (folder / SCORES).exists():
        network = build_natural(config)
        checkpoint.load_into(network, checkpoint.load(run.model)[0], run.model)
        shown = stage("score on VOC", len(tested))
        scores = score_natural(network.to(world.device), tested, lambda done: shown(done, math.nan))
        with replace_file(folder / SCORES) as beside:
            beside.write_bytes(readable_json(scores))
    world.wait()
    return run.model


def build_natural(config: TransferConfig) -> DeepLabV2 | TileClassifier:
    """The network of the pre-training, with random weights."""
    assert config.pretraining is not UNSET
    if config.pretraining.task == "segmentation":
        return DeepLabV2(len(voc.CLASSES), config.encoder)
    return TileClassifier(THINGS, config.encoder)


def start_natural(config: TransferConfig) -> nn.Module:
    """It, as it starts."""
    network = build_natural(config)
    load_start(network, config.encoder, config.weights)
    return network


def load_start(network: DeepLabV2 | TileClassifier, encoder: str, weights: str) -> None:
    """Give a network's encoder the weights it starts from."""
    bare = network.encoder.encoder if isinstance(network, TileClassifier) else network.encoder
    load_weights(bare, encoder, weights)


def draw_crop(images: Sequence[VocImage], before: Pretraining, number: int, random: Random) -> Example:
    """A crop of a natural image; its label is each pixel's class, or which things it shows `[20]`: its own, for what
    the image shows elsewhere is no label of it.
    """
    image = images[shuffled(number, len(images), before.seed)]
    pixels, mask = augment.crop_at_random(*image.read(), before.crop, before.resize, False, random)
    label = mask.astype(np.int64) if before.task == "segmentation" else tell_things(mask)
    return Example(pixels, label, image.image_path.name)


def tell_things(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`[20]`: 1 for each kind of thing that takes `PRESENT_SHARE` of a mask's pixels, else 0."""
    shares = np.bincount(mask.ravel(), minlength=IGNORE + 1)[1 : THINGS + 1] / mask.size
    return (shares >= PRESENT_SHARE).astype(np.float32)


def segmentation_loss(network: nn.Module, pixels: Tensor, labels: Tensor, step: int) -> Tensor:
    """Cross-entropy of each pixel, its logits upsampled."""
    logits = F.interpolate(network(pixels), size=labels.shape[1:], mode="bilinear", align_corners=False)
    return losses.cross_entropy(logits, labels)


def presence_loss(network: nn.Module, pixels: Tensor, labels: Tensor, step: int) -> Tensor:
    """Binary cross-entropy of each kind of thing."""
    return F.binary_cross_entropy_with_logits(network(pixels), labels)


def train(
    config: TransferConfig, patches: LabelledPatches, natural: Path, folder: Path, world: World, stage: Stage
) -> None:
    """Pre-train where that is wanted, on VOC in the folder `natural`, then train the classifier, resuming in `folder`;
    leaves `folder/model.safetensors`. Raises TrainingError and DatasetError.
    """
    check(config, natural, world)
    chosen = draw_examples(patches, config)
    start_hash, known = tell_start(config.weights)
    sources = sorted({*known, *tell_sources(patches, chosen)})
    told = {
        "config": msgspec.json.encode(config).decode(),
        "classes": msgspec.json.encode(patches.classes).decode(),
        "learned_from": msgspec.json.encode(sources).decode(),
        "mpp": repr(tell_mpp(patches, config.window)),
        "start": start_hash,
    }
    run = Run(folder, {"method": METHOD, **told})
    if run.is_finished():
        return
    weights = config.weights
    if config.pretraining is not UNSET:
        weights = str(pretrain(config, natural, folder / PRETRAINING, world, stage))

    def start() -> nn.Module:
        network = build_network(config, len(patches.classes))
        load_start(network, config.encoder, weights)
        return network

    draw = partial(draw_patch, patches, chosen, config)
    after = partial(settle, draw, config)
    task: Task[Tensor] = Task(start, draw, class_loss, groups=partial(group, config), after=after)
    fit(task, config, run, world, stage("classify", config.steps))


def tell_start(weights: str) -> tuple[str, list[str]]:
    """The sha256 of a file of weights, nothing for other starts; and the slides that a classifier of patches, whose
    model it is, learned from.
    """
    path = Path(weights)
    if not path.is_file():
        return "", []
    metadata = checkpoint.load(path)[1] if path.suffix == ".safetensors" else {}
    sources = metadata.get("learned_from", "[]") if metadata.get("method") == METHOD else "[]"
    return hashlib.sha256(path.read_bytes()).hexdigest(), msgspec.json.decode(sources, type=list[str])


def settle(draw: Draw, config: TransferConfig, steps: int, network: nn.Module) -> None:
    """After the last step, take batch norm's statistics of what was learned from: a short training leaves it those of
    what the encoder saw before. An encoder that does not learn keeps its own.
    """
    if steps < config.steps or not config.encoder_rate:
        return
    place = next(network.parameters()).device
    random = np.random.default_rng(config.seed)
    count = min(config.steps, SETTLING) * config.batch
    drawn = ([draw(number, random).inputs for number in range(*part)] for part in bands(count, config.batch))
    update_bn((stack(inputs, place) for inputs in drawn), network)
    network.eval()


def build_network(config: TransferConfig, classes: int) -> TileClassifier:
    """The classifier of patches, with random weights."""
    return TileClassifier(classes, config.encoder, learns=config.encoder_rate > 0)


def draw_patch(
    patches: LabelledPatches, chosen: NDArray[np.int64], config: TransferConfig, number: int, random: Random
) -> Example:
    """A patch, resized, moved, turned and mirrored at random."""
    at = int(chosen[shuffled(number, len(chosen), config.seed)])
    pixels = read_patch(patches, at, config.window)
    margin = math.ceil(config.shift * config.window)
    if margin:
        wide = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), "reflect")
        top, left = random.integers(0, 2 * margin + 1, 2)
        pixels = wide[top : top + config.window, left : left + config.window]
    pixels = augment.turn(pixels, int(random.integers(4)), bool(random.integers(2)))
    label = np.array(patches.labels[at], np.int64)
    return Example(augment.COLOURS[config.colour](pixels, random), label, patches.name(at))


def class_loss(network: nn.Module, pixels: Tensor, labels: Tensor, step: int) -> Tensor:
    """Cross-entropy of patches."""
    return F.cross_entropy(network(pixels), labels)


def group(config: TransferConfig, network: nn.Module) -> list[Group]:
    """The encoder learns at a rate of its own."""
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, each in network.named_parameters():
        parts[name.startswith("encoder.")].append(each)
    rates = {True: config.encoder_rate, False: 1.0}
    return [Group(parts[which], rate) for which, rate in rates.items() if rate]
