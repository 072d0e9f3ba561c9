"""Mosaic slides: GlaS images tiled into pyramidal slides, with the class of every pixel known exactly.

Glands have the grade of the image that they are from, so what a fine window shows of a gland may leave its grade open
while its neighbours tell it: in the `coherent` layout a region of several images has one grade, in the `random` one,
the negative control, neighbours say nothing. Training slides are made of GlaS train alone, test slides of testA alone;
most of testA's patients are in train too, which `mosaics.json` says.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError, OutputError
from glassrt.engine.files import output_errors, replace_folder, write_json
from glassrt.engine.geometry.boxes import Box, Size
from glassrt.training.datasets import glas
from glassrt.training.datasets.labelled import LabelledSlide
from glassrt.training.datasets.tables import read_rows
from glassrt.training.datasets.weak import LABELS

CLASSES = ("non-gland", "healthy", "adenomatous", "differentiated")
GROUPS = {"non-gland": (0,), "benign": (1, 2), "malignant": (3,)}  # GlaS's own two grades
SPLITS = {"train": "train", "test": "testA"}  # the images of GlaS that the slides of a split are made of
INDEX = "mosaics.json"
CELL = 512  # pixels of an image that a slide shows of it; smaller images are left out
REGION = 4  # images to a side of a region of one grade
TILE = 256
QUALITY = 85
LAYOUTS = ("coherent", "random")
GRADE_COLUMNS = ("name", "patient ID", "grade (Sirinukunwattana et al. 2015)")

Random = np.random.Generator


class Tissue(NamedTuple):
    """An image of GlaS: RGB `[H, W, 3]`, its classes `[H, W]`, and the number of its glands' class."""

    pixels: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    grade: int


class ClassMap(NamedTuple):
    """The truth of a slide as a map `[H, W]` of so many classes, read from its file when it is asked for.

    It has the slide's proportions, and as many pixels as its classes need: those of level 0, or fewer.
    """

    path: Path
    classes: int = len(CLASSES)

    def cut(self, box: Box, grid: Size) -> NDArray[np.uint8]:
        """As `Truth.cut`. Raises DatasetError for a map whose proportions are not the grid's, but for rounding."""
        classes = read_map(self.path, self.classes)
        height, width = classes.shape
        if abs(grid[0] * height - grid[1] * width) > width + height:
            raise DatasetError(
                f"{self.path} has {width} x {height} pixels, which are not the proportions of its slide "
                f"({grid[0]} x {grid[1]}): make the mosaics again"
            )
        columns = ((np.arange(box.left, box.right) + 0.5) * (width / grid[0])).astype(np.int64)
        rows = ((np.arange(box.top, box.bottom) + 0.5) * (height / grid[1])).astype(np.int64)
        return classes[np.ix_(rows, columns)]


@cache
def read_map(path: Path, count: int) -> NDArray[np.uint8]:
    """A slide's classes, kept once they were read: 38 MB a slide of pixels of level 0."""
    classes = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if classes is None or classes.ndim != 2 or classes.max() >= count:
        raise DatasetError(f"{path} is missing or no map of {count} classes: make the mosaics again")
    return classes.astype(np.uint8, copy=False)


def find_slides(folder: Path, split: str) -> list[LabelledSlide]:
    """The slides of a split, `train` or `test`. `folder` holds what `make_mosaics` wrote. Raises DatasetError."""
    if split not in SPLITS:
        raise DatasetError(f"mosaics have no split {split!r}; choose one of {', '.join(SPLITS)}")
    if (folder / LABELS).is_file():
        raise DatasetError(
            f"{folder} holds weak mosaics, which have labels of slides: choose mosaics of another layout"
        )
    found = sorted(folder.glob(f"{split}_*.tif"), key=lambda path: (len(path.name), path.name))
    if not found:
        raise DatasetError(
            f"{folder}: no {split}_*.tif here; make them with `glassrt mosaic --data GLAS --out {folder}`"
        )
    return [LabelledSlide(path.stem, path, ClassMap(path.with_name(f"{path.stem}_classes.png"))) for path in found]


def make_mosaics(glas_folder: Path, out: Path, layout: str, slides: dict[str, int], cells: int, seed: int) -> None:
    """Write so many slides of each split, `cells` x `cells` images each, into the folder `out`, all or none.

    `layout` is one of `LAYOUTS`. Raises DatasetError or OutputError.
    """
    if layout == "coherent" and cells % REGION:
        raise DatasetError(f"{cells} images to a side are no whole number of regions of {REGION}")
    grades, patients = read_grades(glas_folder)
    with replace_folder(out, INDEX) as beside, output_errors(out):
        for split, count in slides.items():
            tissue = load_tissue(glas_folder, split, grades)
            for number in range(count):
                random = np.random.default_rng([seed, list(SPLITS).index(split), number])
                pixels, classes = compose(tissue, lay_cells(tissue, layout, cells, random), random)
                name = f"{split}_{number + 1}"
                write_slide(pixels, beside / f"{name}.tif")
                write_map(classes, beside / f"{name}_classes.png", out)
        facts = {"classes": CLASSES, "images_a_side_of_a_region": REGION if layout == "coherent" else 1}
        write_json(beside / INDEX, describe(layout, seed, slides, cells, patients) | facts)


def describe(
    layout: str, seed: int, slides: dict[str, int], cells: int, patients: dict[str, set[str]]
) -> dict[str, Any]:
    """What the index says of mosaics of any layout."""
    return {
        "made_of": "GlaS (Warwick-QU): for research only",
        "layout": layout,
        "seed": seed,
        "slides": slides,
        "images_a_side": cells,
        "patients_of_test_that_are_in_train": sorted(patients["test"] & patients["train"]),
        "patients_of_test": sorted(patients["test"]),
    }


def write_map(classes: NDArray[np.uint8], path: Path, out: Path) -> None:
    """Write a slide's truth; what is being made is called `out`. Raises OutputError."""
    if not cv2.imwrite(str(path), classes):
        raise OutputError(f"{out}: {path.name} cannot be written; free some space or choose another --out")


def read_grades(folder: Path) -> tuple[dict[str, int], dict[str, set[str]]]:
    """The class of each image's glands by its name, and the patients of each split. Raises DatasetError."""
    path = next((each / "Grade.csv" for each in (folder, folder / "glas") if (each / "Grade.csv").is_file()), None)
    if path is None:
        raise DatasetError(f"{folder}: no Grade.csv here; --data must name the folder of the GlaS images")
    grades: dict[str, int] = {}
    patients: dict[str, set[str]] = {split: set() for split in SPLITS}
    for row in read_rows(path, GRADE_COLUMNS, "unpack the set again"):
        name, patient, grade = ((row[column] or "").strip() for column in GRADE_COLUMNS)
        if (number := grade_number(grade)) is None:
            raise DatasetError(f"{path}: {name} has the grade {grade[:64]!r}, none that GlaS has; unpack the set again")
        grades[name] = number
        for split, of_glas in SPLITS.items():
            if name.startswith(f"{of_glas}_"):
                patients[split].add(patient)
    return grades, patients


def grade_number(grade: str) -> int | None:
    """The class of glands of a grade, as the set spells it; all that are differentiated, moderately to poorly, are one.

    None for a grade that it does not have.
    """
    if grade.endswith(("differentiated", "differentated")):  # the set has both spellings
        return CLASSES.index("differentiated")
    return CLASSES.index(grade) if grade in ("healthy", "adenomatous") else None


def load_tissue(folder: Path, split: str, grades: dict[str, int]) -> list[Tissue]:
    """The images of a split that fill a cell. Raises DatasetError."""
    tissue = []
    for image in glas.find_images(folder, SPLITS[split]):
        pixels, glands = image.pixels(), image.classes()
        if min(glands.shape) < CELL:
            continue
        if image.name not in grades:
            raise DatasetError(f"{image.image_path}: Grade.csv tells no grade of it; unpack the set again")
        tissue.append(Tissue(pixels, glands * np.uint8(grades[image.name]), grades[image.name]))
    if {each.grade for each in tissue} != {1, 2, 3}:
        raise DatasetError(
            f"{folder}: no image of a grade fills {CELL} pixels in {SPLITS[split]}; unpack the set again"
        )
    return tissue


def lay_cells(tissue: list[Tissue], layout: str, cells: int, random: Random) -> NDArray[np.int64]:
    """`[cells, cells]`: the number of each cell's image. Grades come equally often, an image seldom twice a region."""
    of_grade = [[number for number, each in enumerate(tissue) if each.grade == grade] for grade in (1, 2, 3)]
    side = REGION if layout == "coherent" else 1
    regions = cells // side
    grades = random.permutation(np.arange(regions**2) % len(of_grade)).reshape(regions, regions)
    numbers = np.zeros((cells, cells), np.int64)
    for row in range(regions):
        for column in range(regions):
            chosen = deal(of_grade[grades[row, column]], side**2, random)
            numbers[row * side : (row + 1) * side, column * side : (column + 1) * side] = chosen.reshape(side, side)
    return numbers


def deal(among: Sequence[int], count: int, random: Random) -> NDArray[np.int64]:
    """So many of these numbers in a random order, each again only when all others have come."""
    rounds = -(-count // len(among))
    return np.concatenate([random.permutation(np.array(among)) for _ in range(rounds)])[:count]


def compose(
    tissue: list[Tissue], numbers: NDArray[np.int64], random: Random
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """RGB and classes of a slide; each cell shows a square of its image, mirrored and turned by chance."""
    side = len(numbers) * CELL
    pixels, classes = np.empty((side, side, 3), np.uint8), np.empty((side, side), np.uint8)
    for (row, column), number in np.ndenumerate(numbers):
        image = tissue[number]
        height, width = image.classes.shape
        top, left = random.integers(0, height - CELL + 1), random.integers(0, width - CELL + 1)
        turns, mirror = int(random.integers(4)), random.choice((-1, 1))
        cell = np.s_[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        for plane, whole in ((image.pixels, pixels), (image.classes, classes)):
            whole[cell] = np.rot90(plane[top : top + CELL, left : left + CELL][:, ::mirror], turns)
    return pixels, classes


def write_slide(pixels: NDArray[np.uint8], path: Path) -> None:
    """An RGB array at GlaS resolution as a tiled TIFF that OpenSlide reads, each level half the one before."""
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        factor = 1
        while factor == 1 or max(pixels.shape[:2]) >= TILE:
            per_cm = 10000 / glas.MPP / factor
            file.write(
                encode_tiles(pixels),
                shape=pixels.shape,
                dtype=pixels.dtype,
                tile=(TILE, TILE),
                photometric="ycbcr",
                subsampling=(1, 1),
                compression="jpeg",
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=int(factor > 1),
                metadata=None,
            )
            height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
            pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
            factor *= 2


def encode_tiles(pixels: NDArray[np.uint8]) -> Iterator[bytes]:
    """Each tile as a JPEG without colour subsampling, in rows; the last ones are filled up with what they end with."""
    height, width = pixels.shape[:2]
    below, beside = -height % TILE, -width % TILE
    pixels = np.pad(pixels, ((0, below), (0, beside), (0, 0)), "edge")
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            yield encode(pixels[top : top + TILE, left : left + TILE])


def encode(tile: NDArray[np.uint8]) -> bytes:
    """One JPEG tile without colour subsampling."""
    tile = np.ascontiguousarray(tile)
    return bytes(imagecodecs.jpeg8_encode(tile, QUALITY, colorspace="RGB", outcolorspace="YCBCR", subsampling="444"))
