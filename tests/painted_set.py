"""A small painted set in the published layout of GlaS, so that training is tested without the real one."""

from pathlib import Path

import cv2
import numpy as np

SIZE = (150, 180)
IMAGES = {"train": 4, "testA": 2}


def paint(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A pink picture `[H, W, 3]` with round violet glands in one half, and their instance mask."""
    mask = np.zeros(SIZE, np.uint8)
    for number in range(1, 4):
        centre = int(random.integers(30, SIZE[1] // 2)), int(random.integers(20, SIZE[0] - 20))
        cv2.circle(mask, centre, int(random.integers(18, 30)), number, -1)
    colours = np.where(mask[..., None] > 0, (110, 60, 140), (225, 160, 200))
    noisy = colours + random.normal(0, 12, colours.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), mask


def paint_set(folder: Path) -> None:
    """Write the set's images and masks."""
    random = np.random.default_rng(0)
    for split, count in IMAGES.items():
        for number in range(1, count + 1):
            pixels, mask = paint(random)
            cv2.imwrite(str(folder / f"{split}_{number}.bmp"), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
            cv2.imwrite(str(folder / f"{split}_{number}_anno.bmp"), mask)
