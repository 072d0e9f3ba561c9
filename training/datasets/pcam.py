"""PatchCamelyon: 327,680 patches of lymph nodes, positive where their middle holds tumour.

Source: Veeling et al., "Rotation equivariant CNNs for digital pathology" (MICCAI 2018). Published layout:
`camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5` with `x` uint8 `[N, 96, 96, 3]` and `y` `[N, 1, 1, 1]`, which
come as `.gz`, and `..._meta.csv`, whose `wsi` are their slides. The splits are of different ones.
"""

import csv
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError, first_line
from glassrt.training.datasets.labelled_patches import LabelledPatches

CLASSES = ("normal", "tumour")
SIDE = 96
MPP = 0.972
SPLITS = {"train": "train", "validation": "valid", "test": "test"}  # what their files' names say
NAME = "camelyonpatch_level_2_split_{}_{}"


def find_patches(folder: Path, split: str) -> LabelledPatches:
    """The patches of a split, `train`, `validation` or `test`, which are read one by one. Raises DatasetError."""
    if split not in SPLITS:
        raise DatasetError(f"PCam has no split {split!r}; choose one of {', '.join(SPLITS)}")
    if (folder / "pcam").is_dir():
        folder = folder / "pcam"
    pixels = open_table(folder / f"{NAME.format(SPLITS[split], 'x')}.h5", "x", (SIDE, SIDE, 3))
    found = open_table(folder / f"{NAME.format(SPLITS[split], 'y')}.h5", "y", (1, 1, 1))
    labels = read(found, slice(None)).reshape(-1).astype(np.int64)
    if len(labels) != len(pixels):
        raise DatasetError(f"{folder}: {len(pixels)} patches of {split} but {len(labels)} labels: unpack them again")
    if labels.size and not set(np.unique(labels)) <= {0, 1}:
        raise DatasetError(f"{folder}: labels of {split} go up to {labels.max()}; they are 0 and 1: unpack them again")
    sources = read_slides(folder / f"{NAME.format(SPLITS[split], 'meta')}.csv", len(labels))
    return LabelledPatches(CLASSES, labels, lambda number: read(pixels, number), MPP, sources)


def read_slides(path: Path, count: int) -> list[str]:
    """The slide of each patch, in the column `wsi`; none where the file is not there. Raises DatasetError."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            slides = [row.get("wsi") or "" for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} is no table ({first_line(error)}): download it again") from error
    if len(slides) != count or not all(slides):
        raise DatasetError(f"{path} does not name a slide (column wsi) for each of {count} patches: download it again")
    return slides


def open_table(path: Path, key: str, shape: tuple[int, ...]) -> Any:
    """The table `[N, *shape]` of bytes that a file calls `key`. Raises DatasetError."""
    if not path.is_file():
        packed = path.with_name(f"{path.name}.gz")
        remedy = f"unpack {packed.name} (gunzip)" if packed.is_file() else "--data must name the folder of PCam's files"
        raise DatasetError(f"{path} is missing: {remedy}")
    try:
        table = h5py.File(path, "r").get(key)
    except OSError as error:
        raise DatasetError(f"{path} is no HDF5 file ({first_line(error)}): download it again") from error
    if not isinstance(table, h5py.Dataset) or table.shape[1:] != shape or table.dtype != np.uint8:
        held = "no table" if not isinstance(table, h5py.Dataset) else f"{table.dtype} {list(table.shape)}"
        raise DatasetError(f"{path}: {held} under {key!r}, expected uint8 [N, {', '.join(map(str, shape))}]")
    return table


def read(table: Any, which: int | slice) -> NDArray[np.uint8]:
    """A part of an opened table. Raises DatasetError where the file is damaged."""
    try:
        found: NDArray[np.uint8] = table[which]
    except OSError as error:
        raise DatasetError(f"{table.file.filename} is damaged ({first_line(error)}): download it again") from error
    return found
