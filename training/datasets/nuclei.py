"""Nuclei of CRCHistoPhenotypes by their four types: 27 x 27 pixels around each. Layout and source as of `crchisto`.

The split `test` is every fifth image: nuclei of one image are alike in stain and focus, and stay together.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError
from glassrt.engine.slides.pictures.images import read_image
from glassrt.training.datasets import crchisto
from glassrt.training.datasets.labelled_patches import LabelledPatches

CLASSES = crchisto.KINDS
MPP = crchisto.MPP
SPLITS = ("train", "test", "all")
EVERY = 5


def find_patches(folder: Path, split: str) -> LabelledPatches:
    """The nuclei of a split, `train`, `test` or `all`, image by image. Raises DatasetError and SlideError."""
    if split not in SPLITS:
        raise DatasetError(f"nuclei have no split {split!r}; choose one of {', '.join(SPLITS)}")
    images = [
        each
        for number, each in enumerate(crchisto.find_images(folder))
        if split == "all" or (number % EVERY == EVERY - 1) == (split == "test")
    ]
    if not images:
        raise DatasetError(f"{folder} has too few images for a split {split}, which is of every fifth: ask for all")
    patches, labels = zip(*map(cut_nuclei, images), strict=True)
    every = np.concatenate(patches)
    sources = [image.name for image, mine in zip(images, labels, strict=True) for _ in mine]
    return LabelledPatches(CLASSES, np.concatenate(labels), lambda number: every[number], MPP, sources)


def cut_nuclei(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The patches `[n, 27, 27, 3]` around the nuclei of an image's folder, and their types `[n]`."""
    image = read_image(folder / f"{folder.name}.bmp")
    points: Sequence[NDArray[np.float64]] = [
        crchisto.read_nuclei(folder / f"{folder.name}_{kind}.mat", image.shape) for kind in CLASSES
    ]
    labels = np.repeat(np.arange(len(CLASSES)), [len(each) for each in points])
    return crchisto.cut_patches(image, np.concatenate(points)), labels
