"""Weak mosaics: slides of GlaS images that are benign or malign as a whole, to learn pixels from slides' labels.

A benign slide is made of benign images, healthy and adenomatous. A malign one holds a share of malignant images too,
in one or a few lesions of neighbouring images, small ones in the layout `weak-small`. All else of it is from the same
benign images, so that nothing but disease tells the labels apart; in the layout `weak-disjoint`, the control, the two
labels have a half of the benign images each, and a network can learn which images these are. The truth is malign on
all of a malignant image, as outlines around lesions are, its stroma included. Training slides are made of GlaS train
alone, test slides of testA alone; patients are shared as `mosaics.json` says.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError
from glassrt.engine.files import output_errors, replace_folder, write_json
from glassrt.training.datasets import mosaic
from glassrt.training.datasets.mosaic import ClassMap, Random, Tissue
from glassrt.training.datasets.weak import CLASSES as CLASSES
from glassrt.training.datasets.weak import COLUMNS, LABELS, WeakSlide, read_labels

DISJOINT = "weak-disjoint"
# The share of a malign slide's images that are malignant, by layout.
SHARES = {"weak": (0.05, 0.30), DISJOINT: (0.05, 0.30), "weak-small": (0.05, 0.10)}
LAYOUTS = tuple(SHARES)
MOST_LESIONS = 3
MALIGNANT = mosaic.CLASSES.index("differentiated")
HALVING = 2**31  # beside a seed: no slide has that number

Mask = NDArray[np.bool_]


def find_slides(folder: Path, split: str) -> list[WeakSlide]:
    """The slides of a split, `train` or `test`. `folder` holds what `make_weak_mosaics` wrote. Raises DatasetError."""
    if split not in mosaic.SPLITS:
        raise DatasetError(f"mosaics have no split {split!r}; choose one of {', '.join(mosaic.SPLITS)}")
    if not (folder / LABELS).is_file():
        raise DatasetError(
            f"{folder}: no {LABELS} here; make weak mosaics: `glassrt mosaic --layout weak --data GLAS --out {folder}`"
        )
    found = [slide for slide in read_labels(folder / LABELS) if slide.name.startswith(f"{split}_")]
    if not found:
        raise DatasetError(f"{folder / LABELS} lists no slide {split}_1.tif or others: make the mosaics again")
    maps = [ClassMap(slide.path.with_name(f"{slide.name}_classes.png"), len(CLASSES)) for slide in found]
    return [slide._replace(truth=truth) for slide, truth in zip(found, maps, strict=True)]


def make_weak_mosaics(glas_folder: Path, out: Path, layout: str, slides: dict[str, int], cells: int, seed: int) -> None:
    """Write so many slides of each split, every second one malign, into the folder `out`, all or none.

    `layout` is one of `LAYOUTS`; a slide is `cells` x `cells` images. Raises DatasetError or OutputError.
    """
    for split, count in slides.items():
        if count < len(CLASSES):
            raise DatasetError(
                f"{count} slide to {split} has one label: weak mosaics need 2 or more, half of them malign"
            )
    if cells < 2:
        raise DatasetError(f"{cells} image to a side leaves no room beside a lesion: weak mosaics need 2 or more")
    grades, patients = mosaic.read_grades(glas_folder)
    lesions: dict[str, int] = {}
    with replace_folder(out, mosaic.INDEX) as beside, output_errors(out):
        for part, (split, count) in enumerate(slides.items()):
            tissue = mosaic.load_tissue(glas_folder, split, grades)
            pools = choose_pools(tissue, layout, np.random.default_rng([seed, part, HALVING]))
            for number in range(count):
                random = np.random.default_rng([seed, part, number])
                name, malign = f"{split}_{number + 1}", number % 2 == 1
                truth = grow_lesions(cells, SHARES[layout], random) if malign else np.zeros((cells, cells), np.bool_)
                pixels, _ = mosaic.compose(tissue, lay_cells(tissue, pools[malign], truth, random), random)
                mosaic.write_slide(pixels, beside / f"{name}.tif")
                # A pixel for each image says all that a map of level 0 would.
                mosaic.write_map(truth.astype(np.uint8), beside / f"{name}_classes.png", out)
                lesions[name] = int(truth.sum())
        rows = [f"{name}.tif,{CLASSES[count > 0]}" for name, count in lesions.items()]
        (beside / LABELS).write_text("\n".join([",".join(COLUMNS), *rows, ""]), "utf-8")
        facts = {
            "classes": CLASSES,
            "malignant_images_of_slides": lesions,
            "benign_images_are_shared_by_both_labels": layout != DISJOINT,
        }
        write_json(beside / mosaic.INDEX, mosaic.describe(layout, seed, slides, cells, patients) | facts)


def choose_pools(tissue: list[Tissue], layout: str, random: Random) -> tuple[list[int], list[int]]:
    """The numbers of the benign images that benign slides, and malign ones, are made of.

    All for both, or a half each, of either grade as nearly as can be. Raises DatasetError for too few to halve.
    """
    grades = [[number for number, each in enumerate(tissue) if each.grade == grade] for grade in (1, 2)]
    benign = [number for each in grades for number in each]
    if layout != DISJOINT:
        return benign, benign
    shuffled = [number for each in grades for number in random.permutation(np.array(each)).tolist()]
    if len(shuffled) < 2:
        raise DatasetError("one benign image cannot be halved; unpack the set again")
    return sorted(shuffled[::2]), sorted(shuffled[1::2])


def grow_lesions(cells: int, shares: tuple[float, float], random: Random) -> Mask:
    """`[cells, cells]`: which images are malignant, a share between two. Lesions grow by neighbours; they may meet."""
    count = max(1, round(random.uniform(*shares) * cells**2))
    grown = np.zeros((cells, cells), np.bool_)
    first = random.choice(cells**2, min(count, int(random.integers(1, MOST_LESIONS + 1))), replace=False)
    grown.flat[first] = True
    while grown.sum() < count:
        padded = np.pad(grown, 1)
        beside = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        grown.flat[random.choice(np.flatnonzero(beside & ~grown))] = True
    return grown


def lay_cells(tissue: list[Tissue], benign: list[int], malignant: Mask, random: Random) -> NDArray[np.int64]:
    """`[cells, cells]`: the number of each cell's image, each again only when all others of its kind have come."""
    numbers = np.zeros(malignant.shape, np.int64)
    bad = [number for number, each in enumerate(tissue) if each.grade == MALIGNANT]
    for among, where in ((benign, ~malignant), (bad, malignant)):
        if where.any():
            numbers[where] = mosaic.deal(among, int(where.sum()), random)
    return numbers
