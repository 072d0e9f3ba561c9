"""Which patches are learned from: the published sets or one's own, and how many of each class."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from glassrt.engine.bundles.kinds.segmentation import check_classes
from glassrt.engine.bundles.parts import COARSEST_MPP, FINEST_MPP, ClassInfo
from glassrt.engine.errors import DatasetError
from glassrt.training.config import Count, Number, Schedule
from glassrt.training.datasets import kather, labelled_patches, nuclei, pcam
from glassrt.training.datasets.labelled_patches import LabelledPatches

SETS: dict[str, Any] = {"kather": kather, "pcam": pcam, "nuclei": nuclei, "folders": labelled_patches}


class PatchConfig(Schedule, frozen=True, kw_only=True):
    """Which patches one classifier learns from, and how it sees them."""

    dataset: Literal["kather", "pcam", "nuclei", "folders"]
    split: str = "train"
    mpp: Annotated[float, Meta(gt=0, le=32)] | UnsetType = UNSET  # of the patches, where their set does not say it
    background: str | UnsetType = UNSET  # class that maps leave blank; unset: the set's first
    examples: Count | UnsetType = UNSET  # of each class; unset: all there are
    subset: Number = 1  # which of many draws of so many
    window: Annotated[int, Meta(ge=32, multiple_of=32)]  # what a patch is resized to

    def __post_init__(self) -> None:
        if (self.mpp is UNSET) == (self.dataset == "folders"):
            needs = "needs `mpp`: nobody else says how large its pixels are" if self.mpp is UNSET else "has its own mpp"
            raise ValueError(f"dataset {self.dataset} {needs}")


def load_patches(config: PatchConfig, data: Path) -> LabelledPatches:
    """The patches of a split, the class of the background first, all as large as the first one.

    `load` raises DatasetError for one that is not. Raises DatasetError and SlideError, also where there are too few to
    draw `examples` from, or what is learned could not become a bundle.
    """
    found: LabelledPatches = SETS[config.dataset].find_patches(data, config.split)
    first = found.classes[0] if config.background is UNSET else config.background
    if first not in found.classes:
        raise DatasetError(f"{data} has no class {first!r}, the background: it has {', '.join(found.classes)}")
    order = sorted(range(len(found.classes)), key=lambda at: found.classes[at] != first)
    chosen = found._replace(
        classes=tuple(found.classes[at] for at in order),
        labels=np.argsort(order)[found.labels],
        mpp=found.mpp if config.mpp is UNSET else config.mpp,
    )
    draw_examples(chosen, config)
    check_names(chosen, data)
    size = found.load(0).shape

    def load(number: int) -> NDArray[np.uint8]:
        patch = found.load(number)
        if patch.shape != size or size[0] != size[1]:
            raise DatasetError(
                f"{found.name(number)} is {patch.shape[1]} x {patch.shape[0]} px, the first patch {size[1]} x "
                f"{size[0]}: cut squares of one size"
            )
        return patch

    alike = chosen._replace(load=load)
    mpp = tell_mpp(alike, config.window)
    if not FINEST_MPP <= mpp <= COARSEST_MPP:
        raise DatasetError(
            f"{data}: windows of {config.window} px would have {mpp:.3g} micrometres per pixel, bundles have "
            f"{FINEST_MPP:g} to {COARSEST_MPP:g}: choose another window"
        )
    return alike


def check_names(patches: LabelledPatches, data: Path) -> None:
    """Raise DatasetError for classes that no bundle could have."""
    try:
        check_classes([ClassInfo(name, (0, 0, 0)) for name in patches.classes])
    except ValueError as error:
        raise DatasetError(f"{data}: {error}; rename its folder") from error


def draw_examples(patches: LabelledPatches, config: PatchConfig) -> NDArray[np.int64]:
    """The numbers of the patches that are learned from, equally many of each class. Raises DatasetError."""
    random = np.random.default_rng(config.subset)
    drawn = []
    for at, name in enumerate(patches.classes):
        mine = np.flatnonzero(patches.labels == at)
        wanted = max(1, len(mine)) if config.examples is UNSET else config.examples
        if len(mine) < wanted:
            raise DatasetError(f"the split {config.split} has {len(mine)} patches of {name}, not {wanted}")
        drawn.append(mine if config.examples is UNSET else random.choice(mine, wanted, replace=False))
    return np.concatenate(drawn)


def read_patch(patches: LabelledPatches, number: int, window: int) -> NDArray[np.uint8]:
    """A patch as the network takes it. Raises DatasetError and SlideError."""
    return labelled_patches.resize(patches.load(number), window)


def tell_mpp(patches: LabelledPatches, window: int) -> float:
    """Micrometres per pixel of patches once they are resized to `window`."""
    assert patches.mpp is not None
    return float(patches.load(0).shape[0] * patches.mpp / window)


def tell_sources(patches: LabelledPatches, numbers: NDArray[np.int64]) -> list[str]:
    """The slides or images of some of the patches, as far as that is known."""
    return sorted({patches.sources[at] for at in numbers}) if patches.sources else []


def fingerprint(patches: LabelledPatches, numbers: NDArray[np.int64]) -> str:
    """The sha256 of some of the patches, their classes and their pixels."""
    content = hashlib.sha256(f"{patches.classes} {patches.mpp} {patches.labels[numbers].tolist()}".encode())
    for number in numbers:
        content.update(patches.load(int(number)).tobytes())
    return content.hexdigest()
