"""PASCAL VOC 2012 with the masks of the augmented set: natural images, 20 kinds of things and the background.

Source: Everingham et al. (2012); Hariharan et al., "Semantic contours from inverse detectors" (ICCV 2011). Published
layout: `JPEGImages/ID.jpg`, `SegmentationClassAug/ID.png` and lists of a split in `ImageSets/Segmentation/`: an ID in a
line, or `/JPEGImages/ID.jpg /SegmentationClassAug/ID.png`. Masks are grey or have VOC's palette; 255 is a border, which
nobody labelled.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError, first_line
from glassrt.training.metrics import IGNORE

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
PLACES = ("", "voc2012", "VOC2012", "VOCdevkit/VOC2012")
MASKS = "SegmentationClassAug"
# The file of a split: that of the augmented set where there is one, which has more names than one.
LISTS = {"train": ("train_aug.txt", "trainaug.txt", "train.txt"), "val": ("val.txt",)}


class VocImage(NamedTuple):
    """An image and its mask of class numbers."""

    image_path: Path
    mask_path: Path

    def pixels(self) -> NDArray[np.uint8]:
        """RGB `[H, W, 3]`; some are grey, which pictures of stained tissue never are. Raises DatasetError."""
        found = cv2.imread(str(self.image_path), cv2.IMREAD_COLOR)
        if found is None:
            raise DatasetError(f"{self.image_path} cannot be read as an image: unpack the set again")
        return cv2.cvtColor(found, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)

    def classes(self) -> NDArray[np.uint8]:
        """Class numbers `[H, W]`, 0 to 20, and `IGNORE`. Raises DatasetError."""
        mask = cv2.imread(str(self.mask_path), cv2.IMREAD_UNCHANGED)
        if mask is None or mask.dtype != np.uint8:
            raise DatasetError(f"{self.mask_path} cannot be read as an image of 8 bits: unpack the set again")
        found = mask.astype(np.uint8, copy=False)
        found = found if found.ndim == 2 else read_palette(found, self.mask_path)
        if unknown := set(np.unique(found).tolist()) - {*range(len(CLASSES)), IGNORE}:
            raise DatasetError(f"{self.mask_path} holds the value {min(unknown)}: masks have 0 to 20, and {IGNORE}")
        return found

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Pixels and class numbers. Raises DatasetError, also where they differ in size."""
        pixels, classes = self.pixels(), self.classes()
        if pixels.shape[:2] != classes.shape:
            size, other = (f"{width} x {height}" for height, width in (pixels.shape[:2], classes.shape))
            raise DatasetError(f"{self.image_path} has {size} pixels but its mask {other}: unpack the set again")
        return pixels, classes


def find_images(folder: Path, split: str) -> list[VocImage]:
    """The images of a split, `train` or `val`, in the order of its list. Raises DatasetError."""
    if split not in LISTS:
        raise DatasetError(f"VOC has no split {split!r}; choose one of {', '.join(LISTS)}")
    root = next((folder / place for place in PLACES if (folder / place / "JPEGImages").is_dir()), None)
    if root is None:
        raise DatasetError(f"{folder}: no JPEGImages here; --data must name the folder of VOC2012")
    lists = root / "ImageSets" / "Segmentation"
    path = next((lists / name for name in LISTS[split] if (lists / name).is_file()), None)
    if path is None:
        raise DatasetError(f"{lists} has none of {', '.join(LISTS[split])}: unpack the set again")
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is no list of images ({first_line(error)})") from error
    images = [find_image(root, line.split(), path) for line in lines if line.strip()]
    if not images:
        raise DatasetError(f"{path} names no image: unpack the set again")
    return images


def find_image(root: Path, words: list[str], listed: Path) -> VocImage:
    """The image that a line of a list names. Raises DatasetError where it is not there."""
    if len(words) > 2:
        raise DatasetError(f"{listed} has {len(words)} words in a line: one image a line, or an image and its mask")
    if len(words) == 2:
        image, mask = (root / word.lstrip("/") for word in words)
    else:
        image, mask = root / "JPEGImages" / f"{words[0]}.jpg", root / MASKS / f"{words[0]}.png"
    if missing := [path for path in (image, mask) if not path.is_file()]:
        raise DatasetError(f"{listed} names {words[0][:60]!r}, but {missing[0]} is missing: unpack the set again")
    return VocImage(image, mask)


def palette() -> NDArray[np.int64]:
    """VOC's colours `[256, 3]`, RGB: the bits of a class number in turn, highest first."""
    numbers = np.arange(256)
    colors = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((numbers >> (3 * bit + channel)) & 1) << (7 - bit)
    return colors


def read_palette(mask: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    """The numbers of colours `[H, W, 3]`, BGR as OpenCV gives them. Raises DatasetError for one that is not VOC's."""
    weights = np.array([1, 1 << 8, 1 << 16])
    known = palette()[:, ::-1] @ weights
    order = np.argsort(known)
    found = mask[..., :3].astype(np.int64) @ weights
    places = np.searchsorted(known[order], found).clip(max=255)
    numbers: NDArray[np.int64] = order[places]
    if not np.array_equal(known[numbers], found):
        raise DatasetError(f"{path} has colours that are not VOC's: give masks as they are published")
    return numbers.astype(np.uint8)
