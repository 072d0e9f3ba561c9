"""OEEM: gland masks from patch labels alone (Li et al., MICCAI 2022).

A patch label says which kinds of tissue a patch holds. Stage 1 learns to classify patches; its class activation
maps, cut to what the labels allow, become pseudo-masks. Stage 2 learns to segment from these, trusting the pixels it
finds easy. Read downwards: settings, patches, stage 1, pseudo-masks, stage 2.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.engine.errors import DatasetError
from glassrt.engine.files import readable_json, replace_file
from glassrt.training import augment, checkpoint, metrics, pictures
from glassrt.training.cam import activation_map, pseudo_mask
from glassrt.training.config import Count, Rate, Schedule, Strict, check_lattice
from glassrt.training.datasets import glas
from glassrt.training.datasets.patches import Patch, absent_classes, label_patches
from glassrt.training.loop import Example, Progress, Random, Task, fit, shuffled
from glassrt.training.methods import segment
from glassrt.training.methods.segment import Sample, SegmentConfig
from glassrt.training.networks.classifier import PatchClassifier
from glassrt.training.networks.encoders import check_encoder, load_weights
from glassrt.training.run import Run, keep_config
from glassrt.training.world import World

METHOD, LABELS = "oeem", "patch labels (OEEM)"
SCORES = "scores.json"


class ClassifyConfig(Schedule, frozen=True, kw_only=True):
    """Stage 1: what the patch classifier learns from."""

    encoder: str
    weights: str = "imagenet"
    output_stride: Literal[8, 16, 32]
    side: Count  # of a patch, in image pixels
    stride: Count
    crop: Annotated[int, Meta(ge=32)]  # what a patch is resized to
    smallest_crop: Annotated[float, Meta(gt=0, le=1)]  # share of a patch's area that a random crop keeps at least
    rotate: bool
    balanced: bool  # draw patches of one kind of tissue as often as patches of each other kind and mixed ones
    colour: augment.Colour

    def __post_init__(self) -> None:
        check_lattice(self.side, self.stride)


class CamConfig(Strict, frozen=True, kw_only=True):
    """Windows and scales of the class activation maps."""

    side: Count
    stride: Count
    scales: Annotated[tuple[Rate, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        check_lattice(self.side, self.stride)


class OeemConfig(Strict, frozen=True, kw_only=True):
    """Both stages."""

    classify: ClassifyConfig
    cam: CamConfig
    segment: SegmentConfig

    def __post_init__(self) -> None:
        if self.segment.contour_um:
            raise ValueError("segment.contour_um: masks made of patch labels do not tell glands apart: leave it out")


Stage = Callable[[str, int], Progress]


def train(config: OeemConfig, data: Path, folder: Path, world: World, stage: Stage) -> None:
    """Both stages, resuming wherever a run in `folder` was stopped; leaves `folder/model.safetensors`.

    `stage(name, steps)` is called when a stage begins and returns what to tell its progress to. Raises
    DatasetError, TrainingError or OutputError.
    """
    masks = learn_masks(config, data, folder, world, stage)
    samples = segment.load_samples(data, config.segment.split, masks, config.segment.mpp, config.segment.contour_um)
    progress = stage("segment", config.segment.steps)
    segment.train(config.segment, samples, folder, world, progress, METHOD, LABELS)


def learn_masks(config: OeemConfig, data: Path, folder: Path, world: World, stage: Stage) -> Path:
    """Stage 1: classifier and pseudo-masks; returns the folder of the masks. As `train`."""
    first, masks = config.classify, folder / "pseudo_masks"
    check_encoder(first.encoder, first.output_stride, first.weights)
    world.part(first.batch)
    segment.check(config.segment, world)  # now, not after stage 1
    samples = segment.load_samples(data, config.segment.split)
    for sample in samples:
        if min(sample.mask.shape) < first.side:
            raise DatasetError(f"{sample.source} is smaller than a patch of {first.side} pixels; lower classify.side")
    patches = label_patches([each.mask for each in samples], len(glas.CLASSES), first.side, first.stride)
    keep_config(config, folder, world)
    run = Run(folder / "classify", {"method": "oeem classifier", "config": msgspec.json.encode(first).decode()})
    if not run.is_finished():
        train_classifier(first, samples, patches, run, world, stage("classify", first.steps))
    if not masks_are_made(config, masks):
        make_pseudo_masks(config, samples, patches, run, masks, world, stage("pseudo-masks", len(samples)))
    return masks


def train_classifier(
    config: ClassifyConfig, samples: list[Sample], patches: list[Patch], run: Run, world: World, progress: Progress
) -> None:
    """Stage 1: multi-label binary cross-entropy on patches."""
    groups = group_by_label(patches) if config.balanced else [patches]
    colour = augment.COLOURS[config.colour]

    def draw(number: int, random: Random) -> Example:
        among = groups[number % len(groups)]
        patch = among[shuffled(number // len(groups), len(among), config.seed)]
        sample = samples[patch.image]
        pixels = augment.crop_resized(
            patch.cut(sample.pixels), config.crop, config.smallest_crop, config.rotate, random
        )
        return Example(colour(pixels, random), patch.present.astype(np.float32), sample.source)

    def loss(network: nn.Module, pixels: Tensor, labels: Tensor, step: int) -> Tensor:
        return F.binary_cross_entropy_with_logits(network(pixels).float(), labels)

    def start() -> nn.Module:
        network = PatchClassifier(len(glas.CLASSES), config.encoder, config.output_stride)
        load_weights(network.encoder, config.encoder, config.weights)
        mean, deviation = pixel_statistics(samples)
        network.pixel_mean.copy_(torch.from_numpy(mean).reshape(1, 3, 1, 1))
        network.pixel_std.copy_(torch.from_numpy(deviation).reshape(1, 3, 1, 1))
        return network

    fit(Task(start, draw, loss, pictures.show_patches), config, run, world, progress)


def group_by_label(patches: list[Patch]) -> list[list[Patch]]:
    """The patches of each kind: gland alone, no gland, both."""
    kinds = [tuple(patch.present) for patch in patches]
    return [[patch for patch, each in zip(patches, kinds, strict=True) if each == kind] for kind in sorted(set(kinds))]


def masks_are_made(config: OeemConfig, folder: Path) -> bool:
    """Whether `folder` holds the pseudo-masks of these very settings, complete."""
    path = folder / SCORES
    return path.exists() and msgspec.json.decode(path.read_bytes()).get("settings") == first_stage(config)


def first_stage(config: OeemConfig) -> dict[str, Any]:
    """All settings that the pseudo-masks depend on, as JSON would give them back."""
    settings = {"classify": config.classify, "cam": config.cam}
    return msgspec.json.decode(msgspec.json.encode(settings), type=dict[str, Any])


def pixel_statistics(samples: list[Sample]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel over all pixels of the set."""
    sums = np.zeros((3, 3))
    for sample in samples:
        levels = [np.bincount(sample.pixels[..., channel].ravel(), minlength=256) for channel in range(3)]
        sums += np.stack(levels) @ np.vander(np.arange(256.0), 3, increasing=True)
    mean, square = sums[:, 1] / sums[:, 0], sums[:, 2] / sums[:, 0]
    return mean, np.sqrt(square - mean**2)


def make_pseudo_masks(
    config: OeemConfig,
    samples: list[Sample],
    patches: list[Patch],
    classifier: Run,
    folder: Path,
    world: World,
    progress: Progress,
) -> None:
    """Write `<image>.png` (0 and 1), the same as a picture, a contact sheet, and `scores.json`, which comes last."""
    network = PatchClassifier(len(glas.CLASSES), config.classify.encoder, config.classify.output_stride)
    checkpoint.load_into(network, checkpoint.load(classifier.model)[0], classifier.model)
    network.to(world.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    if world.leads:
        (folder / SCORES).unlink(missing_ok=True)  # masks of other settings are no longer whole
    counts = np.zeros((2, len(glas.CLASSES), len(glas.CLASSES)), np.int64)
    for number in range(world.rank, len(samples), world.size):
        pixels, truth, source = samples[number]
        zoom = config.classify.crop / config.classify.side
        activations = activation_map(network, pixels, zoom, config.cam.scales, config.cam.side, config.cam.stride)
        own = [patch for patch in patches if patch.image == number]
        mask = pseudo_mask(activations, absent_classes(truth.shape, len(glas.CLASSES), own))
        pictures.write(pictures.outline(pixels, mask), (folder / source).with_suffix(".jpg"))
        pictures.write(mask, (folder / source).with_suffix(".png"))
        counts += [
            metrics.confusion(truth, each, len(glas.CLASSES)) for each in (activations.argmax(0).astype(np.uint8), mask)
        ]
        progress(number, float("nan"))
    counts = world.add(counts)
    if world.leads:
        masks = [segment.read_mask((folder / each.source).with_suffix(".png")) for each in samples]
        shown = [pictures.outline(each.pixels, mask) for each, mask in zip(samples, masks, strict=True)]
        pictures.write(pictures.contact_sheet(shown, columns=8), folder / "contact_sheet.png")
        cam, refined = (round(100 * metrics.mean_iou(each), 2) for each in counts)
        scores = {"CAM": cam, "pseudo-mask": refined}
        with replace_file(folder / SCORES) as beside:
            content = {"mIoU": scores, "settings": first_stage(config)}
            beside.write_bytes(readable_json(content))
    world.wait()
