"""The UCSB breast cancer set: 58 images of tissue microarrays, 32 benign and 26 malignant.

Source: Drelie Gelasca et al., "Evaluation and benchmark for biological image segmentation" (ICIP 2008). Published
layout: `ytma10_010704_benign1_ccd.tif` and the like in one folder: an array, a date, a label.

A bag is an image, its instances the tiles of 32 x 32 pixels of which less than 75 % is white, as in Distill-to-Label,
section IV.A. Nobody has published which cells, or tiles, of a malignant image are malignant: the bags have no labels of
instances, and what Distill-to-Label's Table II says of instances cannot be measured on them.
"""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError
from glassrt.engine.slides.pictures.images import read_image
from glassrt.training.datasets.bag import LabelledBag

CLASSES = ("benign", "malignant")
NAME = re.compile(r"(?P<group>ytma\d+_\d+)_(?P<label>benign|malignant)\d+_ccd\.tif", re.IGNORECASE)
SIDE = 32
MPP = 0.25  # micrometres per pixel, nowhere published: what pictures taken at 40x have
WHITE = 200  # a pixel is white whose red, green and blue are all above
WHITE_SHARE = 0.75


def read_bags(folder: Path) -> list[LabelledBag]:
    """The bags by name; `folder` holds the images, or `ucsb/` does. Raises DatasetError and, for an image, SlideError.

    Images of one array and date are one group, as they may show one tissue, stained and scanned at once. There are ten
    groups, most with images of both labels.
    """
    if (folder / "ucsb").is_dir():
        folder = folder / "ucsb"
    paths = sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name)) if folder.is_dir() else []
    if not paths:
        raise DatasetError(f"{folder}: no ytma*_ccd.tif here; --data must name the folder of the UCSB breast images")
    return [read_bag(path) for path in paths]


def read_bag(path: Path) -> LabelledBag:
    """The bag of one image, whose name says its group and label."""
    named = NAME.fullmatch(path.name)
    assert named
    image = read_image(path)
    if image.shape[0] % SIDE or image.shape[1] % SIDE:
        height, width = image.shape[:2]
        raise DatasetError(f"{path} is {width} x {height}, not of whole tiles of {SIDE}; unpack the set again")
    tiles, positions = cut_tiles(image)
    kept = white_shares(tiles) < WHITE_SHARE
    if not kept.any():
        raise DatasetError(f"{path} is white all over, so there is nothing in its bag; unpack the set again")
    label = CLASSES.index(named["label"].lower())
    return LabelledBag(path.stem, named["group"].lower(), label, tiles[kept], None, positions[kept])


def cut_tiles(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Tiles `[n, SIDE, SIDE, 3]` row by row, and x and y of their middles `[n, 2]`."""
    rows, columns = image.shape[0] // SIDE, image.shape[1] // SIDE
    tiles = image.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
    row, column = np.divmod(np.arange(rows * columns), columns)
    return tiles, np.column_stack([column + 0.5, row + 0.5]) * SIDE


def white_shares(tiles: NDArray[np.uint8]) -> NDArray[np.float64]:
    """`[n]`: the share of each tile's pixels that is white."""
    return np.asarray((tiles.min(-1) > WHITE).mean((1, 2)))
