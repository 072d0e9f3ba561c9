"""A few images in the published layout of PASCAL VOC 2012, with masks of a thing or two."""

from pathlib import Path

import cv2
import numpy as np

SIZE = (72, 90)


def make_voc(folder: Path, train: int = 4, val: int = 2, pairs: bool = False) -> Path:
    """Each image has a square of the class 1 + its number, of a colour of its own; with `pairs` lists name files."""
    random = np.random.default_rng(0)
    for place in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    names = [f"2007_{number:06}" for number in range(train + val)]
    for number, name in enumerate(names):
        mask = np.zeros(SIZE, np.uint8)
        mask[20:50, 30:70] = 1 + number
        mask[48:52, 30:70] = 255
        pixels = random.integers(0, 60, (*SIZE, 3)) + (mask[..., None] == 1 + number) * 40 * np.array([number, 3, 1])
        cv2.imwrite(str(folder / "JPEGImages" / f"{name}.jpg"), pixels.clip(0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / "SegmentationClassAug" / f"{name}.png"), mask)
    for split, mine in (("train_aug" if pairs else "trainaug", names[:train]), ("val", names[train:])):
        lines = [f"/JPEGImages/{each}.jpg /SegmentationClassAug/{each}.png" if pairs else each for each in mine]
        (folder / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return folder
