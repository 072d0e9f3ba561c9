"""The instances of a bag as features in a file, which stay there until they are learned from."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.parts import Making
from glassrt.engine.errors import DatasetError, first_line
from glassrt.engine.geometry.boxes import Indices, bands
from glassrt.engine.results.features import Stored, read_features

PART = 4096  # instances


@dataclass(frozen=True)
class StoredInstances:
    """Features of `shape` `[K, D]` in a file, which is opened for each read: thousands of slides need no memory.

    `making` is what the file says of how they were made.
    """

    path: Path
    shape: tuple[int, int]
    making: Making

    def read(self, chosen: slice | Indices) -> NDArray[np.float32]:
        """The features `[k, D]` of some instances, by their numbers in rising order.

        Raises DatasetError for what is no number, and SlideError for a file that holds no features any more.
        """
        with read_features(self.path) as stored:
            if stored.table.shape != self.shape:
                raise DatasetError(f"{self.path} was replaced by another file while it was used: begin again")
            try:
                found = stored.table[chosen] if isinstance(chosen, slice) else pick_rows(stored, chosen)
            except OSError as error:
                raise DatasetError(f"{self.path} cannot be read ({first_line(error)}): store it again") from error
        with np.errstate(over="ignore"):
            features = np.asarray(found, np.float32)
        finite = np.isfinite(features).all(1)
        if not finite.all():
            tile = np.arange(self.shape[0])[chosen][finite.argmin()]
            raise DatasetError(f"{self.path}: the features of tile {tile} hold NaN or infinity: embed the slide again")
        return features

    def parts(self) -> Iterator[NDArray[np.float32]]:
        """All features, some at a time. Raises as `read` does."""
        for top, bottom in bands(self.shape[0], PART):
            yield self.read(slice(top, bottom))


def pick_rows(stored: Stored, chosen: Indices) -> NDArray[Any]:
    """Rows of a table, by their numbers in rising order.

    What lies together in the file is read at once, and never twice: a row, or a chunk of rows. HDF5's own choice of
    rows takes several times as long where each is a chunk, as TRIDENT writes them.
    """
    table = stored.table
    height = table.chunks[0] if table.chunks else 1
    picked = np.empty((len(chosen), table.shape[1]), table.dtype)
    chunks = chosen // height
    starts = [*np.flatnonzero(np.diff(chunks, prepend=-1)).tolist(), len(chosen)]
    for first, end in pairwise(starts):
        top = int(chunks[first]) * height
        picked[first:end] = table[top : top + height][chosen[first:end] - top]
    return picked
