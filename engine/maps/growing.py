"""Regions of a map that grows in no order, each as soon as no later tile can reach it."""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.maps.canvas import TILE
from glassrt.engine.maps.mapfile import MapFile
from glassrt.engine.maps.regions import Piece, Region, order_of, outline

Place = tuple[int, int]  # row and column of a tile
OrderKey = tuple[int, int, int, int, int]
SIDES: dict[Place, Any] = {  # a tile's border each way
    (-1, 0): np.s_[0], (1, 0): np.s_[-1], (0, -1): np.s_[:, 0], (0, 1): np.s_[:, -1],
}  # fmt: skip


class GrowingRegions:
    """The regions of `find_regions`, of tiles that are finished one by one and have been written to the map file.

    `expected` `[rows, columns]` are the tiles that are to come; the others are blank.
    """

    def __init__(self, map_file: MapFile, map_mpp: float, smallest_um2: float, expected: NDArray[np.bool_]) -> None:
        self._file, self._map_mpp, self._smallest = map_file, map_mpp, smallest_um2
        self._done = ~expected
        self._pieces: list[Piece | None] = []  # those that have been absorbed, or given out, are None
        self._parents: list[int] = []
        self._open: list[int] = []  # borders to tiles that are to come, of each piece
        self._borders: dict[tuple[int, Place, Place], Indices] = {}  # pieces along them, by class, tile and way

    def add(self, place: Place, painted: NDArray[np.uint8] | None) -> Iterator[tuple[Region, OrderKey]]:
        """Add a finished tile `[planes, h, w]`, None for a blank one; yields the regions that are whole now, and what
        those of the finished map are ordered by.
        """
        self._done[place] = True
        for class_index in range(1, self._file.classes):
            whole = self._add_class(place, painted, class_index)
            for piece in whole:
                order, regions = order_of(piece, self._file), outline(self._file, piece, self._map_mpp, self._smallest)
                yield from ((region, (*order, part)) for part, region in enumerate(regions))

    def _add_class(self, place: Place, painted: NDArray[np.uint8] | None, class_index: int) -> list[Piece]:
        labels = None if painted is None else self._label(place, painted, class_index)
        touched = set() if labels is None else {*np.unique(labels[labels >= 0]).tolist()}
        for way, border in SIDES.items():
            beside = place[0] + way[0], place[1] + way[1]
            if not (0 <= beside[0] < self._done.shape[0] and 0 <= beside[1] < self._done.shape[1]):
                continue
            mine = None if labels is None else labels[border]
            if self._done[beside]:
                touched |= self._join(mine, self._borders.pop((class_index, beside, (-way[0], -way[1])), None))
            elif mine is not None and (mine >= 0).any():
                self._borders[class_index, place, way] = mine.copy()
                for number in np.unique(mine[mine >= 0]).tolist():
                    self._open[self._root(number)] += 1
        return list(self._give_out({self._root(number) for number in touched}))

    def _label(self, place: Place, painted: NDArray[np.uint8], class_index: int) -> Indices:
        """The number of the piece that each pixel of a tile belongs to, -1 for none."""
        top, left = place[0] * TILE, place[1] * TILE
        mask = (painted[0] == class_index).view(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
        sums = np.bincount(labels.ravel(), weights=painted[class_index].ravel(), minlength=count)
        first = len(self._pieces)
        for label in range(1, count):
            x, y, width, height, pixels = stats[label].tolist()
            column = x + int(np.argmax(labels[y, x : x + width] == label))
            box = (left + x, top + y, left + x + width, top + y + height)
            self._pieces.append(Piece(class_index, pixels, int(sums[label]), *box, (left + column, top + y)))
            self._parents.append(first + label - 1)
            self._open.append(0)
        return np.where(labels > 0, labels.astype(np.int64) + first - 1, -1)

    def _join(self, mine: Indices | None, other: Indices | None) -> set[int]:
        """Join pieces across a border that is open no more; returns the numbers of those on its other side."""
        if other is None:
            return set()
        numbers = {*np.unique(other[other >= 0]).tolist()}
        for number in numbers:
            self._open[self._root(number)] -= 1
        if mine is not None:
            touching = (mine >= 0) & (other >= 0)
            for one, two in np.unique(np.stack([mine, other])[:, touching], axis=1).T.tolist():
                self._unite(self._root(one), self._root(two))
        return numbers

    def _unite(self, first: int, second: int) -> None:
        if first == second:
            return
        kept, absorbed = self._pieces[first], self._pieces[second]
        assert kept is not None
        assert absorbed is not None
        kept.absorb(absorbed)
        self._open[first] += self._open[second]
        self._parents[second], self._pieces[second] = first, None

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    def _give_out(self, roots: set[int]) -> Iterator[Piece]:
        """The pieces that nothing can reach any more, and that are not too small to count."""
        for root in sorted(roots):
            piece = self._pieces[root]
            if piece is not None and not self._open[root]:
                self._pieces[root] = None
                if piece.pixels * self._map_mpp**2 >= self._smallest:
                    yield piece
