"""Small mosaic slides of painted images, so that dual-input training is tested without GlaS."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from glassrt.training.datasets import mosaic, weak_mosaic

CELL, CELLS = 64, 8
GRADES = ("healthy", "adenomatous", "moderately differentiated", "poorly differentiated")
SHADES = {"train": 200, "testA": 120}  # of red, by which a slide tells what images it is made of


def paint_graded(folder: Path) -> Path:
    """A set in the published layout of GlaS, four images of each grade and split; glands are darker."""
    random = np.random.default_rng(0)
    lines = ["name,patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)"]
    for split, shade in SHADES.items():
        for number in range(16):
            grade = number % len(GRADES)
            mask = np.zeros((72, 90), np.uint8)
            cv2.circle(mask, (45, 36), 20 + grade, 1, -1)
            colours = np.where(mask[..., None] > 0, (60 + 40 * grade, 60, shade - 60), (220, 160, shade))
            pixels = np.clip(colours + random.normal(0, 4, colours.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / f"{split}_{number + 1}.bmp"), pixels)
            cv2.imwrite(str(folder / f"{split}_{number + 1}_anno.bmp"), mask)
            lines.append(f"{split}_{number + 1},{number if split == 'train' else number + 12}, benign, {GRADES[grade]}")
    (folder / "Grade.csv").write_text("\n".join(lines) + "\n")
    return folder


def make_small(glas: Path, out: Path, layout: str = "coherent", seed: int = 1) -> Path:
    """Mosaics of such a set: two slides to train on and one to test on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mosaic, "CELL", CELL)
        mosaic.make_mosaics(glas, out, layout, {"train": 2, "test": 1}, CELLS, seed)
    return out


def number_images(folder: Path) -> Path:
    """Paint the number of each image of such a set over it, as its green: `read_number` reads it from a slide."""
    for path in folder.glob("*_*.bmp"):
        if not path.stem.endswith("_anno"):
            pixels = cv2.imread(str(path))
            pixels[..., 1] = 40 + 12 * int(path.stem.split("_")[1])
            cv2.imwrite(str(path), pixels)
    return folder


def read_number(pixels: np.ndarray) -> int:
    """The number of the image that a part of a slide shows."""
    return round((float(np.median(pixels[..., 1])) - 40) / 12)


def make_weak(glas: Path, out: Path, layout: str = "weak", train: int = 4, test: int = 4, seed: int = 1) -> Path:
    """Weak mosaics of such a set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mosaic, "CELL", CELL)
        weak_mosaic.make_weak_mosaics(glas, out, layout, {"train": train, "test": test}, CELLS, seed)
    return out
