"""CRCHistoPhenotypes: 100 images of colorectal tissue with the centres of 22,444 nuclei of four classes.

Source: Sirinukunwattana et al., "Locality sensitive deep learning for detection and classification of nuclei" (TMI
2016). Published layout: `img1/img1.bmp`, `img1_epithelial.mat`, `img1_fibroblast.mat`, `img1_inflammatory.mat` and
`img1_others.mat` beside it, ... `img100/`. Each `.mat` has the x and y of nuclei as `detection`. The images are of nine
patients, but which is of whom is not published: each is a group of its own. For research only.

A bag is an image, positive where it holds an epithelial nucleus; its instances are 27 x 27 pixels around each nucleus.
Source: Distill-to-Label, section IV.A, which has images divided into patches of that size; around nuclei, the share of
those with an epithelial one is .34, near the .26 to .32 that the scores in its Table I allow for.
"""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError
from glassrt.engine.slides.pictures.images import read_image
from glassrt.training.datasets.bag import LabelledBag
from glassrt.training.datasets.matlab import read_matrix

CLASSES = ("other", "epithelial")  # of nuclei, and of bags by whether they hold one
KINDS = ("epithelial", "fibroblast", "inflammatory", "others")
PLACES = ("", "crchisto", "Classification", "CRCHistoPhenotypes_2016_04_28/Classification")  # of the images' folders
KEY = "detection"
SIDE = 27
MPP = 0.55  # micrometres per pixel, scanned at 20x
FIRST = 0.5  # where MATLAB's pixels begin: the middle of the first is at 1


def read_bags(folder: Path) -> list[LabelledBag]:
    """The bags in the order of their images' numbers; `folder` holds the images' folders, or what it holds does.

    Instances are in the order of their nuclei from top to bottom, so that their order says nothing of their class.
    Raises DatasetError, and SlideError for an image that cannot be read.
    """
    return [read_bag(each) for each in find_images(folder)]


def find_images(folder: Path) -> list[Path]:
    """The images' folders by number; `folder` holds them, or what it holds does. Raises DatasetError."""
    for place in PLACES:
        found = [each for each in (folder / place).glob("img*") if re.fullmatch(r"img\d+", each.name) and each.is_dir()]
        if found:
            return sorted(found, key=lambda each: int(each.name[3:]))
    raise DatasetError(f"{folder}: no img1 and others here; --data must name the folder of CRCHistoPhenotypes")


def read_bag(folder: Path) -> LabelledBag:
    """The bag of one image's folder."""
    name, path = folder.name, folder / f"{folder.name}.bmp"
    if not path.is_file():
        raise DatasetError(f"{path} is missing: every image lies in a folder of its name; unpack the set again")
    image = read_image(path)
    nuclei = [read_nuclei(folder / f"{name}_{kind}.mat", image.shape) for kind in KINDS]
    positions = np.concatenate(nuclei)
    if not len(positions):
        raise DatasetError(f"{folder} has no nucleus of any class, so its bag is empty; unpack the set again")
    labels = np.repeat([1, 0, 0, 0], [len(each) for each in nuclei]).astype(np.int64)
    order = np.lexsort(positions.T)
    return LabelledBag(
        name, name, int(labels.any()), cut_patches(image, positions[order]), labels[order], positions[order]
    )


def read_nuclei(path: Path, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """`[n, 2]`: x and y of the nuclei in a `.mat`, in pixels from the top left corner of an image of that shape.

    The file counts as MATLAB does: nuclei are darkest where the middle of the first pixel is taken for (1, 1). Some
    points lie in the half pixel before that and are moved to the border. Raises DatasetError for a file that is none
    of the set, or has points beyond 0 .. width and 0 .. height.
    """
    points = load_points(path)
    height, width = shape[:2]
    inside = ((points >= 0) & (points <= (width, height))).all(1)  # false for what is no number, too
    if not inside.all():
        x, y = points[~inside][0]
        raise DatasetError(f"{path}: nucleus ({x:g}, {y:g}) is outside the image of {width} x {height}")
    return np.maximum(points - FIRST, 0)


def load_points(path: Path) -> NDArray[np.float64]:
    """`[n, 2]`: the points in a `.mat`, as it has them; raises DatasetError if there is no such list."""
    points = read_matrix(path, KEY)
    if points.shape[1] != 2:
        raise DatasetError(f"{path}: {KEY!r} is {points.shape}, expected x and y of each nucleus, [n, 2]")
    return points


def cut_patches(image: NDArray[np.uint8], positions: NDArray[np.float64]) -> NDArray[np.uint8]:
    """`[n, SIDE, SIDE, 3]`: the pixels around the one that each position lies in; borders are mirrored.

    `positions` `[n, 2]` are from the top left corner of the image; the far borders count as the last pixel.
    """
    margin = SIDE // 2
    wide = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), "reflect")
    windows = np.lib.stride_tricks.sliding_window_view(wide, (SIDE, SIDE), axis=(0, 1))  # [H, W, 3, SIDE, SIDE]
    height, width = image.shape[:2]
    column, row = np.minimum(positions.astype(np.int64), (width - 1, height - 1)).T
    return np.ascontiguousarray(windows[row, column].transpose(0, 2, 3, 1))
