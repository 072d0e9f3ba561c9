"""What a slide's tiles are, each by itself: a table, and their shares by class."""

import csv
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.parts import ClassInfo
from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.results.cells import as_text

TABLE = "tiles.csv"


class TileClass(msgspec.Struct, frozen=True):
    """Of one class the tiles that are likeliest of it, their `share` of all, and its mean probability over all."""

    tiles: int
    share: float
    mean_probability: float


def count_tiles(probabilities: NDArray[np.float32], classes: Sequence[ClassInfo]) -> dict[str, TileClass]:
    """The figures of N tiles by class, whose probabilities are `[N, C]`, N at least 1."""
    counts = np.bincount(probabilities.argmax(1), minlength=len(classes))
    means = probabilities.mean(0, dtype=np.float64)
    return {
        info.name: TileClass(int(count), float(count / len(probabilities)), float(mean))
        for info, count, mean in zip(classes, counts, means, strict=True)
    }


def write_tiles(path: Path, corners: Indices, probabilities: NDArray[np.float32], classes: Sequence[ClassInfo]) -> None:
    """A row for each tile in the order that they were run in: `corners` `[N, 2]`, x and y of its upper left corner in
    pixels of level 0, its likeliest class, and the probability of each.
    """
    names = [info.name for info in classes]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["x", "y", "class", *(as_text(f"{name}_probability") for name in names)])
        for (x, y), shares in zip(corners.tolist(), probabilities, strict=True):
            likeliest = as_text(names[int(shares.argmax())])
            table.writerow([x, y, likeliest, *(f"{value:.6g}" for value in shares.tolist())])
