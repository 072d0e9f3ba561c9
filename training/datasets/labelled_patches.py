"""Patches of one class each, what classifiers of tiles learn from and are scored on; and the plainest set of them, a
folder of images for each class.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError
from glassrt.engine.slides.pictures.images import read_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
ALL = "all"


def call_by_number(number: int) -> str:
    """What a patch is called that has no name."""
    return f"patch {number + 1}"


class LabelledPatches(NamedTuple):
    """N patches: their class numbers in `classes` `[N]`; `load(n)` reads the n-th, RGB `[H, W, 3]`, and `name(n)` is
    what messages call it. `mpp` is None if nobody says it, `sources` the slide or image that each is of, empty if
    nobody says that.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    load: Callable[[int], NDArray[np.uint8]]
    mpp: float | None
    sources: Sequence[str] = ()
    name: Callable[[int], str] = call_by_number


def find_patches(folder: Path, split: str) -> LabelledPatches:
    """The images in `folder/SPLIT/CLASS/`, or for the split `all` in `folder/CLASS/`.

    Classes are in alphabetical order. Raises DatasetError.
    """
    root = folder if split == ALL else folder / split
    if not root.is_dir():
        raise DatasetError(f"{root} does not exist: name a split that {folder} has a folder of, or `--split {ALL}`")
    found = sorted(each for each in root.iterdir() if each.is_dir() and not each.name.startswith("."))
    return gather({each.name: each for each in found}, root)


def gather(
    folders: dict[str, Path],
    root: Path,
    wanted: Callable[[Path], bool] = lambda path: True,
    tell_source: Callable[[Path], str] | None = None,
) -> LabelledPatches:
    """The `wanted` images of a folder for each class, in order. Raises DatasetError for one class alone, or an empty
    one.
    """
    if len(folders) < 2:
        raise DatasetError(
            f"{root}: a set of patches has a folder for each of two classes or more, found {len(folders)}"
        )
    paths: list[Path] = []
    counts = []
    for name, folder in folders.items():
        mine = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if not mine:
            raise DatasetError(f"{folder} holds no image of the class {name!r}: add some, or remove the folder")
        chosen = [path for path in mine if wanted(path)]
        paths += chosen
        counts.append(len(chosen))
    labels = np.repeat(np.arange(len(folders)), counts)
    sources = [] if tell_source is None else list(map(tell_source, paths))

    def load(number: int) -> NDArray[np.uint8]:
        return read_image(paths[number])

    return LabelledPatches(tuple(folders), labels, load, None, sources, lambda number: str(paths[number]))


def resize(patch: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A patch `[S, S, 3]` with `side` pixels a side, as networks learn from it and are scored on it."""
    if patch.shape[0] == side:
        return patch
    how = cv2.INTER_AREA if side < patch.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(patch, (side, side), interpolation=how).astype(np.uint8, copy=False)
