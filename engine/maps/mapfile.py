"""The finished map on disk while a slide is being scored: planes of uint8 in a plain file.

Plain reads and writes, no memory mapping: the pages of a mapping count as resident memory, and memory must
not grow with the slide.
"""

import os
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import bands
from glassrt.engine.geometry.coverage import cover
from glassrt.engine.maps.canvas import Tile

NOT_ANALYSED = 255
"""Class value of pixels outside every computed window."""

WHOLE_ROWS = 32  # a part of the width is read row by row only when it is less than one in this many
READ_AHEAD = 4_000_000  # bytes of whole rows read at a time for a part of their width

Bytes = NDArray[np.uint8]


class MapFile:
    """A map `[planes, height, width]` in a file of its own, which closing deletes.

    Plane 0 holds class numbers, or NOT_ANALYSED; plane k the probability of class k as round(255 p), 0 where
    not analysed. Class 0 is the background; its probability is what the others leave.
    """

    def __init__(self, path: Path, planes: int, height: int, width: int) -> None:
        self.path, self.planes, self.height, self.width = path, planes, height, width
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)

    def write_rows(self, top: int, rows: Bytes) -> None:
        """Write `[planes, n, width]` as rows `top`...`top + n` of every plane."""
        for plane, content in enumerate(rows):
            offset = (plane * self.height + top) * self.width
            rest = np.ascontiguousarray(content).data.cast("B")
            while rest:  # one call may take only a part
                written = os.pwrite(self._descriptor, rest, offset)
                rest, offset = rest[written:], offset + written

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
            count = os.preadv(self._descriptor, [rest], offset)
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


class MapWriter:
    """Takes a canvas's tiles and writes the map file row by row.

    `size` is the map's (width, height). `pixels` counts the analysed pixels of each class, `tissue_pixels` those parts
    of them that are tissue, `probability` sums each class's over all of them.
    """

    def __init__(self, map_file: MapFile, tissue: NDArray[np.bool_]) -> None:
        self._file, self._tissue = map_file, tissue
        self.size = (map_file.width, map_file.height)
        self._top = 0
        self._rows = self._blank(0)
        self.pixels = np.zeros(map_file.planes, np.int64)
        self.tissue_pixels = np.zeros(map_file.planes)
        self.probability = np.zeros(map_file.planes)

    def _blank(self, height: int) -> NDArray[np.uint8]:
        rows = np.zeros((self._file.planes, height, self._file.width), np.uint8)
        rows[0] = NOT_ANALYSED
        return rows

    def place(self, tile: Tile) -> None:
        """Add one tile; tiles come in bands from top to bottom."""
        height, width = tile.analysed.shape
        if tile.top != self._top or not self._rows.shape[1]:
            self._flush(tile.top)
            self._rows = self._blank(height)
        classes = tile.probabilities.argmax(axis=0)
        columns = slice(tile.left, tile.left + width)
        self._rows[0, :, columns] = np.where(tile.analysed, classes, NOT_ANALYSED)
        self._rows[1:, :, columns] = np.rint(tile.probabilities[1:] * 255)
        self.probability += tile.probabilities.sum(axis=(1, 2), dtype=np.float64)
        analysed = classes[tile.analysed]
        self.pixels += np.bincount(analysed, minlength=len(self.pixels))
        share = cover(self._tissue, self.size, tile.left, tile.top, (width, height))[tile.analysed]
        self.tissue_pixels += np.bincount(analysed, weights=share, minlength=len(self.pixels))

    def finish(self) -> None:
        """Write what is left, down to the map's last row."""
        self._flush(self._file.height)

    def _flush(self, next_top: int) -> None:
        if self._rows.shape[1]:
            self._file.write_rows(self._top, self._rows)
        top = self._top + self._rows.shape[1]
        while top < next_top:
            blank = self._blank(min(512, next_top - top))
            self._file.write_rows(top, blank)
            top += blank.shape[1]
        self._top, self._rows = next_top, self._blank(0)
