"""A map that grows in no order: each tile is composed as soon as the last of its windows has come."""

from collections.abc import Callable
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.geometry.plan import Plan
from glassrt.engine.maps.canvas import TILE, Canvas, Tile
from glassrt.engine.maps.mapfile import MapFile, Measured, measure, write_blank

Place = tuple[int, int]  # row and column of a tile


class ScatteredCanvas(Canvas):
    """A canvas that hands out each tile by itself, with the windows that it was composed of.

    `place` is called with a tile, or None where none of its windows came, its row and column, and the numbers of all
    windows that could have had a share in it.
    Tiles are those of a `Canvas`, to the bit.
    """

    def __init__(
        self,
        plan: Plan,
        output_stride: int,
        map_size: tuple[int, int],
        place: Callable[[Tile | None, Place, Indices], None],
        contour_of: int = 0,
    ) -> None:
        super().__init__(plan, output_stride, map_size, lambda tile: None, contour_of)
        self._place_one = place
        self._first = np.column_stack([self._first_band, self._columns[:, 0] // TILE])
        self._last = np.column_stack([self._last_band, (self._columns[:, 1] - 1) // TILE])
        self.tiles = np.zeros((len(self._bands), -(-self._map_width // TILE)), np.int64)  # windows that each waits for
        self._arrived: dict[Place, list[int]] = {}
        self._waiting = np.prod(self._last - self._first + 1, axis=1)  # tiles that each window is held for
        for index in range(len(self._first)):
            self.tiles[self._under(index)] += 1

    def _under(self, index: int) -> tuple[slice, slice]:
        """The tiles that a window has a share in."""
        (top, left), (bottom, right) = self._first[index].tolist(), self._last[index].tolist()
        return slice(top, bottom + 1), slice(left, right + 1)

    def put(self, index: int, held: NDArray[np.float32] | None) -> None:
        """Take what `compare` kept of a window, or None to go without it."""
        rows, columns = self._under(index)
        if held is not None:
            self._held[index] = held
        self.tiles[rows, columns] -= 1
        for row in range(rows.start, rows.stop):
            for column in range(columns.start, columns.stop):
                arrived = self._arrived.setdefault((row, column), [])
                if held is not None:
                    arrived.append(index)
                if not self.tiles[row, column]:
                    self._finish_tile((row, column))

    def _finish_tile(self, place: Place) -> None:
        indices = np.sort(np.array(self._arrived.pop(place), np.int64))
        top, bottom = self._bands[place[0]]
        left = place[1] * TILE
        tile = self._compose(indices, top, bottom, left, min(left + TILE, self._map_width)) if len(indices) else None
        under = np.all((self._first <= place) & (place <= self._last), axis=1)
        self._place_one(tile, place, np.flatnonzero(under))
        for index in indices.tolist():
            self._waiting[index] -= 1
            if not self._waiting[index]:
                del self._held[index]


class ScatteredWriter:
    """Writes a map's tiles in any order. Once it is finished, it holds what a `MapWriter` does, to the bit."""

    def __init__(self, map_file: MapFile, tissue: NDArray[np.bool_]) -> None:
        self._file, self._tissue = map_file, tissue
        self.size = (map_file.width, map_file.height)
        self.measured = Measured.nothing(map_file.classes)
        self._parts: dict[Place, Measured] = {}
        write_blank(map_file, 0, map_file.height)

    def place(self, tile: Tile, painted: NDArray[np.uint8]) -> None:
        """Write a tile, whose pixels the file holds as `paint` makes them."""
        self._file.write_part(tile.top, tile.left, painted)
        self._parts[tile.top, tile.left] = measure(tile, self._tissue, self.size)

    def finish(self) -> None:
        """Sum up in the order in which a `MapWriter` does: sums of floats depend on it."""
        self.measured = reduce(Measured.plus, (self._parts[place] for place in sorted(self._parts)), self.measured)
