"""Kather-5000: 5,000 patches of colorectal tissue in eight classes, 625 of each.

Source: Kather et al., "Multi-class texture analysis in colorectal cancer histology" (Scientific Reports, 2016).
Published layout: `Kather_texture_2016_image_tiles_5000/01_TUMOR/*.tif` and seven more, 150 x 150 pixels of 0.495
micrometres. The ten slides are told by the files' names, `..._HE-01_...` or `CRC-Prim-HE-01_...`; random splits would
have patches of one slide in two parts.
"""

import re
from pathlib import Path

from glassrt.engine.errors import DatasetError
from glassrt.training.datasets.labelled_patches import LabelledPatches, gather

CLASSES = ("TUMOR", "STROMA", "COMPLEX", "LYMPHO", "DEBRIS", "MUCOSA", "ADIPOSE", "EMPTY")
PLACES = ("", "Kather_texture_2016_image_tiles_5000", "kather")
SLIDE = re.compile(r"HE-?(\d+)")
MPP = 0.495
TESTED = ("09", "10")  # the slides of the split `test`
SPLITS = ("train", "test", "all")


def find_patches(folder: Path, split: str) -> LabelledPatches:
    """The patches of a split, `train`, `test` or `all`, which are of different slides. Raises DatasetError."""
    if split not in SPLITS:
        raise DatasetError(f"Kather-5000 has no split {split!r}; choose one of {', '.join(SPLITS)}")
    root = find_root(folder)
    folders = {name: root / f"{number:02}_{name}" for number, name in enumerate(CLASSES, start=1)}
    if missing := [each for each in folders.values() if not each.is_dir()]:
        raise DatasetError(f"{missing[0]} is missing: unpack the set again")

    def wanted(path: Path) -> bool:
        return split == "all" or (tell_slide(path) in TESTED) == (split == "test")

    return gather(folders, root, wanted, lambda path: f"HE-{tell_slide(path)}")._replace(mpp=MPP)


def find_root(folder: Path) -> Path:
    """Where the classes' folders lie. Raises DatasetError."""
    for place in PLACES:
        for root in (folder / place, folder / place / PLACES[1]):
            if (root / f"01_{CLASSES[0]}").is_dir():
                return root
    raise DatasetError(f"{folder}: no 01_TUMOR and others here; --data must name the folder of Kather's patches")


def tell_slide(path: Path) -> str:
    """The number of a patch's slide. Raises DatasetError for a name that does not tell it."""
    found = SLIDE.search(path.name)
    if found is None:
        raise DatasetError(f"{path}: the name does not say the slide, as HE-01 does: unpack the set again")
    return found[1]
