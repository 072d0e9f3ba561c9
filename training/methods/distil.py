"""Distillation: a fast network that learns what slow ones say (Hinton et al., "Distilling the Knowledge in a Neural
Network", 2015).

Teachers are bundles, whatever made them: one network, several, or a multi-scale test that takes fifty times as long.
The engine runs them over images and slides that need no labels; where there are labels, the student may learn from
these too. Read downwards: settings, what is learned from, maps, examples, loss, loop.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
import torch
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.engine.bundles.parts import ClassInfo, Teacher
from glassrt.engine.errors import DatasetError, TrainingError
from glassrt.engine.files import prepare_folder
from glassrt.engine.production.entries import SLIDE_SUFFIXES, find_in_folder
from glassrt.engine.slides.image_file import IMAGE_SUFFIXES
from glassrt.training import augment, losses, pictures, teachers
from glassrt.training.config import Rate, Schedule, Share, Strict, Weight
from glassrt.training.datasets import glas
from glassrt.training.loop import Task, fit
from glassrt.training.methods.oeem import Stage
from glassrt.training.methods.segment import Side, load_samples
from glassrt.training.metrics import IGNORE
from glassrt.training.networks.segmenter import Design
from glassrt.training.run import Run, keep_config
from glassrt.training.soft_views import Look, SoftViews
from glassrt.training.teachers import Planned, Source, Teachers
from glassrt.training.world import World

METHOD = "distil"
MAPS = "maps"  # folder of a run, where the teachers' maps are


class DistilConfig(Schedule, frozen=True, kw_only=True):
    """What one student learns."""

    student: Design
    mpp: Annotated[float, Meta(gt=0, le=32)] | UnsetType = UNSET  # that the student sees; unset: what its teachers do
    crop: Side
    window: Side  # of the exported network
    resize: tuple[Rate, Rate]
    rotate: bool
    colour: augment.Colour
    temperature: Rate = 1.0
    disagreement: Share = 0.0  # of its weight that a pixel loses where teachers disagree wholly
    label_weight: Weight = 0.0  # of the loss on labels, where there are some
    dataset: Literal["glas"] = "glas"  # that --data names
    split: str = "train"
    contour_um: Annotated[float, Meta(gt=0)] | UnsetType = UNSET  # of the labels' contours, if the teachers tell these
    auxiliary_weight: Weight = 0.0

    def __post_init__(self) -> None:
        if self.resize[0] > self.resize[1]:
            raise ValueError(f"resize {list(self.resize)} must rise")


class Meant(Strict, frozen=True, kw_only=True):
    """What a student's bundle takes over from its teachers'."""

    classes: tuple[ClassInfo, ...]
    mpp: float
    contour_of: str | UnsetType = UNSET
    smallest_um2: float | UnsetType = UNSET
    licences: tuple[str, ...]
    teachers: tuple[Teacher, ...]
    learned_from: str


class Material(NamedTuple):
    """What is learned from: images and slides, and the class masks of those that have labels."""

    sources: list[Source]
    masks: list[NDArray[np.uint8]]

    @property
    def described(self) -> str:
        """In words."""
        whole = sum(source.whole for source in self.sources)
        parts = {"images": whole, "slides": len(self.sources) - whole, "masks": len(self.masks)}
        return ", ".join(f"{count} {name}" for name, count in parts.items() if count)


def gather(
    config: DistilConfig,
    taught: Teachers,
    data: Path | None = None,
    images: Path | None = None,
    mpp: float | None = None,
    slides: Path | None = None,
) -> Material:
    """The images of a labelled set in `data`, those in a folder, of which `mpp` may be told, and the slides in another.

    Raises DatasetError or TrainingError.
    """
    sources: list[Source] = []
    masks: list[NDArray[np.uint8]] = []
    if data is not None:
        found = glas.find_images(data, config.split)
        if config.label_weight:
            masks = load_masks(config, taught, data)
        numbered = enumerate(found) if masks else ((None, each) for each in found)
        sources += [Source(each.image_path, glas.MPP, True, number) for number, each in numbered]
    elif config.label_weight:
        raise TrainingError("label_weight is of labels, and there are none: name a set with --data, or set it to 0")
    for folder, suffixes, what in ((images, IMAGE_SUFFIXES, "images"), (slides, SLIDE_SUFFIXES, "slides")):
        if folder is not None:
            files = sorted(find_in_folder(folder, frozenset(suffixes)))
            if not files:
                raise DatasetError(f"{folder}: no {what} here, of {', '.join(sorted(suffixes))}")
            whole = what == "images"
            sources += [Source(path, mpp if whole else None, whole) for path in files]
    if not sources:
        raise TrainingError("nothing to learn from: name --data, --images or --slides")
    return Material(sources, masks)


def load_masks(config: DistilConfig, taught: Teachers, data: Path) -> list[NDArray[np.uint8]]:
    """The masks of the set as the student sees them, in the teachers' classes."""
    manifest = taught.manifest
    names = tuple(each.name for each in manifest.classes)
    if names != glas.CLASSES:
        raise DatasetError(
            f"{data} has masks of {', '.join(glas.CLASSES)}, the teachers tell {', '.join(names)} apart: "
            "set label_weight to 0"
        )
    if bool(manifest.contoured) != bool(config.contour_um):
        told = "tell contours: set contour_um" if manifest.contoured else "tell no contours: leave contour_um out"
        raise TrainingError(f"labels need what teachers tell, and these {told}")
    mpp = config.mpp or manifest.mpp
    return [each.mask for each in load_samples(data, config.split, None, mpp, config.contour_um)]


def train(config: DistilConfig, taught: Teachers, material: Material, folder: Path, world: World, stage: Stage) -> None:
    """Let the teachers make their maps, then train the student on them, resuming wherever a run in `folder` stopped;
    leaves `folder/model.safetensors`. Raises GlassError.
    """
    config.student.check()
    world.part(config.batch)
    maps = folder / MAPS
    mpp = config.mpp or taught.manifest.mpp
    planned = [teachers.plan_map(source, taught, mpp, maps) for source in material.sources]
    settings = {"method": METHOD, "config": msgspec.json.encode(config).decode()}
    run = Run(folder, settings | tell(taught, material, planned, mpp))
    if run.is_finished():
        return
    keep_config(config, folder, world)
    prepare_folder(maps)
    teachers.refuse_small_disk(planned, taught, maps)
    progress = stage("teachers", len(planned))
    with teachers.running(taught) as backends:
        for number in range(world.rank, len(planned), world.size):
            if not planned[number].path.exists():
                teachers.make_map(planned[number], taught, backends)
            progress(number, float("nan"))
    world.wait()
    look = Look(mpp, config.crop, config.resize, config.rotate, config.colour, config.disagreement, config.seed)
    views = SoftViews(planned, material.masks, look)

    def loss(network: nn.Module, pixels: Tensor, label: Tensor, step: int) -> Tensor:
        logits, auxiliary = network(pixels)
        return student_loss(logits, label, config) + config.auxiliary_weight * student_loss(auxiliary, label, config)

    def picture(network: nn.Module, pixels: Tensor, label: Tensor) -> NDArray[np.uint8]:
        likeliest = torch.where(label[:, -2] > 0, soft_labels(label).argmax(1), IGNORE)
        return pictures.show_segmentation(network, pixels, likeliest)

    planes = taught.manifest.planes
    task = Task(lambda: config.student.start(planes), views.draw, loss, picture)
    fit(task, config, run, world, stage("student", config.steps))


def tell(taught: Teachers, material: Material, planned: list[Planned], mpp: float) -> dict[str, str]:
    """What a run says of its teachers and of what it learned from: it belongs to these."""
    manifest = taught.manifest
    meant = Meant(
        classes=manifest.classes,
        mpp=mpp,
        contour_of=manifest.contour_of,
        smallest_um2=manifest.smallest_um2,
        licences=tuple(dict.fromkeys(each.manifest.licence for each in taught.bundles)),
        teachers=taught.described,
        learned_from=material.described,
    )
    content = hashlib.sha256("".join(each.made for each in planned).encode())
    for mask in material.masks:
        content.update(mask.tobytes())
    return {"meant": msgspec.json.encode(meant).decode(), "maps": content.hexdigest()}


def soft_labels(label: Tensor) -> Tensor:
    """`[N, planes, H, W]`: the probabilities of a batch's labels."""
    said = label[:, :-2].float() / 255
    return torch.cat([(1 - said.sum(1, keepdim=True)).clamp(min=0), said], 1)


def student_loss(logits: Tensor, label: Tensor, config: DistilConfig) -> Tensor:
    """The divergence from the teachers, and on labels the loss that segmentation has, of logits `[N, C, h, w]`."""
    logits = F.interpolate(losses.full_precision(logits), size=label.shape[2:], mode="bilinear", align_corners=False)
    loss = losses.distillation(logits, soft_labels(label), label[:, -2].float() / 255, config.temperature)
    if config.label_weight:
        mask = label[:, -1].long()
        loss = loss + config.label_weight * (losses.cross_entropy(logits, mask) + losses.dice(logits, mask))
    return loss
