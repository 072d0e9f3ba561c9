"""The finished map on disk while a slide is being scored: planes of uint8 in a plain file.

Plain reads and writes, no memory mapping: the pages of a mapping count as resident memory, and memory must
not grow with the slide.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import bands
from glassrt.engine.geometry.coverage import cover
from glassrt.engine.maps.canvas import Tile
from glassrt.engine.system import BINARY, read_into, write_at

NOT_ANALYSED = 255
"""Class value of pixels outside every computed window."""

WHOLE_ROWS = 32  # a part of the width is read row by row only when it is less than one in this many
READ_AHEAD = 4_000_000  # bytes of whole rows read at a time for a part of their width

Bytes = NDArray[np.uint8]


class MapFile:
    """A map `[planes, height, width]` of several classes in a file of its own, which closing deletes.

    Plane 0 holds class numbers, or NOT_ANALYSED; plane k the probability of class k as round(255 p), 0 where
    not analysed. Class 0 is the background; its probability is what the others leave. If `contour_of` is a class, one
    more plane holds what of its probability lies at its contour.
    """

    def __init__(self, path: Path, classes: int, height: int, width: int, contour_of: int = 0) -> None:
        self.path, self.classes, self.height, self.width = path, classes, height, width
        self.contour_of, self.planes = contour_of, classes + bool(contour_of)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | BINARY, 0o600)

    def write_rows(self, top: int, rows: Bytes) -> None:
        """Write `[planes, n, width]` as rows `top`...`top + n` of every plane."""
        for plane, content in enumerate(rows):
            offset = (plane * self.height + top) * self.width
            rest = np.ascontiguousarray(content).data.cast("B")
            while rest:  # one call may take only a part
                written = write_at(self._descriptor, rest, offset)
                rest, offset = rest[written:], offset + written

    def write_part(self, top: int, left: int, part: Bytes) -> None:
        """Write `[planes, h, w]` at a place of every plane."""
        for plane, content in enumerate(part):
            for row, values in enumerate(content):
                write_at(self._descriptor, values.tobytes(), (plane * self.height + top + row) * self.width + left)

    def read(self, plane: int, top: int, bottom: int, left: int = 0, right: int | None = None) -> Bytes:
        """`[bottom - top, right - left]` of one plane; owned by the caller. Threads may read at once."""
        right = self.width if right is None else right
        rows = np.empty((bottom - top, right - left), np.uint8)
        start = (plane * self.height + top) * self.width + left
        if right - left == self.width:
            self._fill(rows, start)
        elif WHOLE_ROWS * (right - left) < self.width:
            for index, row in enumerate(rows):
                self._fill(row, start + index * self.width)
        else:
            for first, end in bands(bottom - top, max(1, READ_AHEAD // self.width)):
                whole = np.empty((end - first, self.width), np.uint8)
                self._fill(whole, start - left + first * self.width)
                rows[first:end] = whole[:, left:right]
        return rows

    def _fill(self, array: Bytes, offset: int) -> None:
        rest = array.data.cast("B")
        while rest:
            count = read_into(self._descriptor, rest, offset)
            assert count, "rows were read before they were written"
            rest, offset = rest[count:], offset + count

    def close(self) -> None:
        """Close and delete the file; harmless when done twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> "MapFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Measured(NamedTuple):
    """Sums over a part of the map, a value a class: analysed pixels, those parts of them that are tissue, and the
    probability over all of them.
    """

    pixels: NDArray[np.int64]
    tissue_pixels: NDArray[np.float64]
    probability: NDArray[np.float64]

    @classmethod
    def nothing(cls, classes: int) -> "Measured":
        """Of no pixel."""
        return cls(np.zeros(classes, np.int64), np.zeros(classes), np.zeros(classes))

    def plus(self, other: "Measured") -> "Measured":
        """Of both."""
        return Measured(
            self.pixels + other.pixels,
            self.tissue_pixels + other.tissue_pixels,
            self.probability + other.probability,
        )


def measure(tile: Tile, tissue: NDArray[np.bool_], map_size: tuple[int, int]) -> Measured:
    """What a tile of a map of `map_size` (width, height) adds."""
    height, width = tile.analysed.shape
    classes = len(tile.probabilities)
    analysed = tile.probabilities.argmax(axis=0)[tile.analysed]
    share = cover(tissue, map_size, tile.left, tile.top, (width, height))[tile.analysed]
    return Measured(
        np.bincount(analysed, minlength=classes).astype(np.int64, copy=False),
        np.bincount(analysed, weights=share, minlength=classes).astype(np.float64, copy=False),
        tile.probabilities.sum(axis=(1, 2), dtype=np.float64),
    )


def paint(tile: Tile) -> Bytes:
    """A tile as the map file holds it, `[planes, h, w]`."""
    classes, height, width = tile.probabilities.shape
    painted = np.empty((classes + (tile.contour is not None), height, width), np.uint8)
    painted[0] = np.where(tile.analysed, tile.probabilities.argmax(axis=0), NOT_ANALYSED)
    painted[1:classes] = np.rint(tile.probabilities[1:] * 255)
    if tile.contour is not None:
        painted[classes] = np.rint(tile.contour * 255)
    return painted


class Written(Protocol):
    """A map that was written: its (width, height), and what it holds."""

    size: tuple[int, int]
    measured: Measured


class MapWriter:
    """Takes a canvas's tiles and writes the map file row by row.

    `size` is the map's (width, height), `measured` what its pixels say of each class.
    """

    def __init__(self, map_file: MapFile, tissue: NDArray[np.bool_]) -> None:
        self._file, self._tissue = map_file, tissue
        self.size = (map_file.width, map_file.height)
        self.measured = Measured.nothing(map_file.classes)
        self._top = 0
        self._rows = self._blank(0)

    def _blank(self, height: int) -> Bytes:
        return blank(self._file.planes, height, self._file.width)

    def place(self, tile: Tile) -> None:
        """Add one tile; tiles come in bands from top to bottom."""
        height, width = tile.analysed.shape
        if tile.top != self._top or not self._rows.shape[1]:
            self._flush(tile.top)
            self._rows = self._blank(height)
        self._rows[:, :, tile.left : tile.left + width] = paint(tile)
        self.measured = self.measured.plus(measure(tile, self._tissue, self.size))

    def finish(self) -> None:
        """Write what is left, down to the map's last row."""
        self._flush(self._file.height)

    def _flush(self, next_top: int) -> None:
        if self._rows.shape[1]:
            self._file.write_rows(self._top, self._rows)
        write_blank(self._file, self._top + self._rows.shape[1], next_top)
        self._top, self._rows = next_top, self._blank(0)


def blank(planes: int, height: int, width: int) -> Bytes:
    """Rows that were not analysed."""
    rows = np.zeros((planes, height, width), np.uint8)
    rows[0] = NOT_ANALYSED
    return rows


def write_blank(map_file: MapFile, top: int, bottom: int) -> None:
    """Write rows that were not analysed."""
    for first in range(top, bottom, 512):
        map_file.write_rows(first, blank(map_file.planes, min(512, bottom - first), map_file.width))
