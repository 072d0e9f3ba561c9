"""Distillation: a fast network that learns what slow ones say (Hinton et al., "Distilling the Knowledge in a Neural
Network", 2015).

Teachers are bundles, whatever made them: one network, several, or a multi-scale test that takes fifty times as long.
The engine runs them over images and slides that need no labels; where there are labels, the student may learn from
these too. Read downwards: settings, what is learned from, maps, examples, loss, loop.
"""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
import torch
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.engine.bundles.parts import ClassInfo, Overlay, Resolution, SlideScoring, Teacher
from glassrt.engine.errors import DatasetError, TrainingError
from glassrt.engine.files import prepare_folder
from glassrt.engine.production.entries import SLIDE_SUFFIXES, find_in_folder
from glassrt.engine.slides.image_file import IMAGE_SUFFIXES
from glassrt.training import augment, checkpoint, losses, pictures, teachers
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
    mpp: Resolution | UnsetType = UNSET  # that the student sees; unset: what its teachers do
    crop: Side
    window: Side  # of the exported network
    resize: tuple[Rate, Rate]
    rotate: bool
    colour: augment.Colour
    temperature: Annotated[float, Meta(gt=0, le=2)] = 1.0  # maps hold 255ths: at 2 they tell targets to 0.04
    disagreement: Share = 0.0  # of its weight that a pixel loses where teachers disagree wholly
    label_weight: Weight = 0.0  # of the loss on labels, where there are some
    dataset: Literal["glas"] = "glas"  # that --data names
    split: str = "train"
    contour_um: Annotated[float, Meta(gt=0)] | UnsetType = UNSET  # of the labels' contours, if the teachers tell these
    auxiliary_weight: Weight = 0.0

    def __post_init__(self) -> None:
        if self.resize[0] > self.resize[1]:
            raise ValueError(f"resize {list(self.resize)} must rise")
        if self.validation:
            raise ValueError("leave out [validation]: there is no validation set")
        if self.contour_um and not self.label_weight:
            raise ValueError("contour_um is of labels: leave it out, or set label_weight")


class Meant(Strict, frozen=True, kw_only=True):
    """What a student's bundle takes over from its teachers: what they ask for besides classes is the first one's."""

    classes: tuple[ClassInfo, ...]
    mpp: float
    contour_of: str | UnsetType = UNSET
    smallest_um2: float | UnsetType = UNSET
    slide_scores: SlideScoring | UnsetType = UNSET
    overlay: Overlay | UnsetType = UNSET
    dataset: str | UnsetType = UNSET  # that was among what it learned from
    licences: tuple[str, ...]
    teachers: tuple[Teacher, ...]
    learned_from: str


class Material(NamedTuple):
    """What is learned from: images and slides, of which the first are of a set, and the masks of those with labels."""

    sources: list[Source]
    of_set: int
    masks: list[NDArray[np.uint8]]

    def describe(self, named: str) -> str:
        """In words; `named` is the set."""
        whole = sum(source.whole for source in self.sources)
        slides = len(self.sources) - whole
        parts = {f"images of {named}": self.of_set, "images": whole - self.of_set, "slides": slides}
        return ", ".join(f"{count} {name}" for name, count in {**parts, "masks": len(self.masks)}.items() if count)


def gather(
    config: DistilConfig,
    taught: Teachers,
    data: Path | None = None,
    images: Path | None = None,
    mpp: float | None = None,
    slides: Path | None = None,
) -> Material:
    """The images of a labelled set in `data`, those in a folder, and the slides in another. `mpp` is of the images, or
    where there are none of the slides. Raises DatasetError or TrainingError.
    """
    if mpp is not None and images is None and slides is None:
        raise TrainingError(f"--mpp {mpp:g} is of --images or --slides: name a folder, or leave it out")
    if config.disagreement and len(taught.bundles) == 1:
        raise TrainingError("disagreement is of several teachers: name another, or set it to 0")
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
    of_set = len(sources)
    if images is not None:
        sources += [Source(path, mpp, True) for path in find_files(images, IMAGE_SUFFIXES, "images")]
    if slides is not None:
        told = mpp if images is None else None
        sources += [Source(path, told, False) for path in find_files(slides, SLIDE_SUFFIXES, "slides")]
    if not sources:
        raise TrainingError("nothing to learn from: name --data, --images or --slides")
    return Material(sources, of_set, masks)


def find_files(folder: Path, suffixes: Collection[str], what: str) -> list[Path]:
    """The files in a folder, by name. Raises DatasetError."""
    if not folder.is_dir():
        raise DatasetError(f"--{what} {folder} is no folder: name one that holds {what}")
    files = sorted(find_in_folder(folder, frozenset(suffixes)))
    if not files:
        raise DatasetError(f"{folder}: no {what} here, of {', '.join(sorted(suffixes))}")
    if masks := [path for path in files if path.stem.endswith(glas.MASK)]:
        raise DatasetError(
            f"{masks[0]} looks like a mask of GlaS: name that set with --data, or a folder of {what} alone"
        )
    return files


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
    world.part(config.batch)
    maps = folder / MAPS
    mpp = config.mpp or taught.manifest.mpp
    planned = [teachers.plan_map(source, taught, mpp, maps) for source in material.sources]
    settings = {"method": METHOD, "config": msgspec.json.encode(config).decode()}
    run = Run(folder, settings | tell(config, taught, material, planned, mpp))
    if run.is_finished():
        return
    planes = taught.manifest.planes
    config.student.check()
    config.student.start(planes)  # now, not after the teachers' hours
    if run.state.exists():
        run.check(run.state, checkpoint.load(run.state)[1])
    keep_config(config, folder, world)
    prepare_folder(maps)
    teachers.refuse_small_disk(planned, taught, maps, world.size)
    world.wait()  # else those who look later see what others have written
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

    task = Task(lambda: config.student.start(planes), views.draw, loss, picture)
    fit(task, config, run, world, stage("student", config.steps))


def tell(
    config: DistilConfig, taught: Teachers, material: Material, planned: list[Planned], mpp: float
) -> dict[str, str]:
    """What a run says of its teachers and of what it learned from: it belongs to these."""
    manifest = taught.manifest
    meant = Meant(
        classes=manifest.classes,
        mpp=mpp,
        contour_of=manifest.contour_of,
        smallest_um2=taught.smallest_um2,
        slide_scores=manifest.slide_scores,
        overlay=manifest.overlay,
        dataset=config.dataset if material.of_set else UNSET,
        licences=tuple(dict.fromkeys(each.manifest.licence for each in taught.bundles)),
        teachers=taught.described,
        learned_from=material.describe(f"GlaS {config.split}"),
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
