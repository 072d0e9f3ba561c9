"""Connected regions of the map as polygons, in memory that grows with a region, not with the slide."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.mapfile import MapFile
from glassrt.engine.windows import bands

Mask = NDArray[np.bool_]
Ring = NDArray[np.float64]

BAND_PIXELS = 4_000_000  # of the map labelled at a time: 100 MB of labels and sums


@dataclass(frozen=True)
class Region:
    """One 4-connected region of a class other than 0.

    `rings` are `[n, 2]` x, y corners in map pixels along pixel edges: the outline first, then holes.
    """

    class_index: int
    area_um2: float
    mean_probability: float
    rings: tuple[Ring, ...]


@dataclass
class Piece:
    """A region, or the part of one that the bands so far hold. The box is in map pixels, ends excluded."""

    class_index: int
    pixels: int
    probability_sum: int
    left: int
    top: int
    right: int
    bottom: int
    seed: tuple[int, int]

    def absorb(self, other: "Piece") -> None:
        """Add the pixels of `other`."""
        self.pixels += other.pixels
        self.probability_sum += other.probability_sum
        self.left, self.top = min(self.left, other.left), min(self.top, other.top)
        self.right, self.bottom = max(self.right, other.right), max(self.bottom, other.bottom)


def find_regions(
    map_file: MapFile, map_mpp: float, smallest_um2: float = 0.0, band_pixels: int = BAND_PIXELS
) -> Iterator[Region]:
    """The regions of every class but 0 that are not smaller than `smallest_um2`, class by class from the top.

    The map is labelled in bands of rows; then each region is read again by its bounding box, so a region as
    large as the slide needs as much memory as the slide's map.
    """
    pixel_um2 = map_mpp**2
    for class_index in range(1, map_file.planes):
        for piece in label_class(map_file, class_index, max(1, band_pixels // map_file.width)):
            if piece.pixels * pixel_um2 < smallest_um2:
                continue
            mask = read_piece(map_file, piece)
            rings = tuple(np.add(ring, (piece.left, piece.top)) for ring in trace(mask))
            mean = piece.probability_sum / (255 * piece.pixels)
            yield Region(class_index, piece.pixels * pixel_um2, mean, rings)


def label_class(map_file: MapFile, class_index: int, band: int) -> list[Piece]:
    """All regions of one class, whole, with those that cross bands joined."""
    pieces: list[Piece] = []
    parents: list[int] = []

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    above = np.full(map_file.width, -1)  # the piece of each pixel in the row above the band
    for top, bottom in bands(map_file.height, band):
        mask = map_file.read(0, top, bottom) == class_index
        probability = map_file.read(class_index, top, bottom)
        uppermost, lowermost = label_band(mask, probability, class_index, top, pieces)
        parents.extend(range(len(parents), len(pieces)))
        touching = (above >= 0) & (uppermost >= 0)
        for upper, lower in np.unique(np.stack([above, uppermost])[:, touching], axis=1).T.tolist():
            first, second = sorted((root(upper), root(lower)))
            if first != second:
                parents[second] = first
                pieces[first].absorb(pieces[second])
        above = lowermost
    return [piece for index, piece in enumerate(pieces) if parents[index] == index]


def label_band(
    mask: Mask, probability: NDArray[np.uint8], class_index: int, top: int, pieces: list[Piece]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Append the band's pieces to `pieces`; returns the piece of each pixel in its first and last row, -1 outside."""
    first = len(pieces)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)
    sums = np.bincount(labels.ravel(), weights=probability.ravel(), minlength=count)
    for label in range(1, count):
        left, row, width, height, pixels = stats[label].tolist()
        column = left + int(np.argmax(labels[row, left : left + width] == label))
        box = (left, top + row, left + width, top + row + height)
        pieces.append(Piece(class_index, pixels, int(sums[label]), *box, (column, top + row)))
    rows = (np.where(labels[row] > 0, labels[row].astype(np.int64) + first - 1, -1) for row in (0, -1))
    return next(rows), next(rows)


def read_piece(map_file: MapFile, piece: Piece) -> Mask:
    """The mask of one region within its bounding box."""
    classes = map_file.read(0, piece.top, piece.bottom, piece.left, piece.right)
    _, labels = cv2.connectedComponents((classes == piece.class_index).view(np.uint8), connectivity=4)
    column, row = piece.seed
    return labels == labels[row - piece.top, column - piece.left]  # type: ignore[no-any-return]


def trace(mask: Mask) -> list[Ring]:
    """Rings of a 4-connected mask along its pixel edges: the outline, then holes; simple, unclosed.

    A ring turns where an odd number of the four pixels around a grid point is set. Along a row of grid
    points, edges join the turns pairwise from the left; along a column, from the top.
    """
    padded = np.pad(fill_corners(mask), 1)
    ys, xs = np.nonzero(padded[:-1, :-1] ^ padded[:-1, 1:] ^ padded[1:, :-1] ^ padded[1:, 1:])
    by_column = np.lexsort((ys, xs))
    in_column = np.empty_like(by_column)
    in_column[by_column] = by_column[np.arange(len(by_column)) ^ 1]
    partners, rings = in_column.tolist(), []
    left = [True] * len(partners)
    for start in range(len(partners)):
        ring, turn = [], start
        while left[turn]:
            other = turn ^ 1  # turns are numbered along rows
            left[turn] = left[other] = False
            ring += [turn, other]
            turn = partners[other]
        if ring:
            rings.append(np.column_stack([xs[ring], ys[ring]]).astype(np.float64))
    return sorted(rings, key=lambda ring: -abs(signed_area(ring)))


def fill_corners(mask: Mask) -> Mask:
    """The mask with a pixel added wherever two touch by a corner alone: rings must not touch themselves."""
    mask = mask.copy()
    while True:
        a, b, c, d = mask[:-1, :-1], mask[:-1, 1:], mask[1:, :-1], mask[1:, 1:]
        falling, rising = a & d & ~b & ~c, b & c & ~a & ~d
        if not (falling.any() or rising.any()):
            return mask
        mask[:-1, 1:] |= falling
        mask[:-1, :-1] |= rising


def signed_area(ring: Ring) -> float:
    """Area inside an unclosed ring; positive where it runs from the x to the y axis."""
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2
