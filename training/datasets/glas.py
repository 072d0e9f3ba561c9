"""GlaS, the gland segmentation challenge of MICCAI 2015 (Warwick-QU): 165 images, instance masks, grades.

Source: Sirinukunwattana et al., "Gland segmentation in colon histology images" (MedIA 2017). Published layout:
`train_1.bmp`, `train_1_anno.bmp`, ... `testA_*`, `testB_*` and `Grade.csv` in one folder. For research only.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError
from glassrt.engine.slides.pictures.images import read_image

SPLITS = ("train", "testA", "testB")
MPP = 0.62005  # 20x, as the challenge states
CLASSES = ("other", "gland")
MASK = "_anno"  # what the name of an image's mask ends in


@dataclass(frozen=True)
class GlasImage:
    """One image of the set with its mask beside it."""

    name: str
    image_path: Path
    mask_path: Path

    def pixels(self) -> NDArray[np.uint8]:
        """RGB `[H, W, 3]`."""
        return read_image(self.image_path)

    def instances(self) -> NDArray[np.uint8]:
        """`[H, W]`: 0 outside glands, 1, 2, ... one number a gland."""
        mask = cv2.imread(str(self.mask_path), cv2.IMREAD_UNCHANGED)
        if mask is None or mask.ndim != 2:
            raise DatasetError(f"{self.mask_path}: not a single-channel mask; unpack the set again")
        return mask.astype(np.uint8, copy=False)

    def classes(self) -> NDArray[np.uint8]:
        """`[H, W]`: the number in `CLASSES` of each pixel."""
        return (self.instances() > 0).astype(np.uint8)


def find_images(folder: Path, split: str) -> list[GlasImage]:
    """The images of a split, in the order of their numbers. `folder` holds the published files, or `glas/` does."""
    if split not in SPLITS:
        raise DatasetError(f"GlaS has no split {split!r}; choose one of {', '.join(SPLITS)}")
    if (folder / "glas").is_dir():
        folder = folder / "glas"
    found = [path for path in folder.glob(f"{split}_*.bmp") if re.fullmatch(rf"{split}_\d+\.bmp", path.name)]
    if not found:
        raise DatasetError(f"{folder}: no {split}_*.bmp here; --data must name the folder of the GlaS images")
    images = [
        GlasImage(path.stem, path, path.with_name(f"{path.stem}{MASK}.bmp"))
        for path in sorted(found, key=lambda path: int(path.stem.split("_")[1]))
    ]
    for image in images:
        if not image.mask_path.is_file():
            raise DatasetError(f"{image.mask_path} is missing: every image needs its mask beside it")
    return images
