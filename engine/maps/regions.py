"""Connected regions of the map as polygons, in memory that grows with the largest region, not with the slide."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import Indices, bands
from glassrt.engine.maps.instances import boxes, insides, tell_apart
from glassrt.engine.maps.mapfile import MapFile
from glassrt.engine.maps.rings import BAND_PIXELS, Mask, Ring, trace


@dataclass(frozen=True)
class Region:
    """One 4-connected region of a class other than 0; of a class with contours, what these part from the rest.

    `rings` are `[n, 2]` x, y corners in map pixels along pixel edges: the outline first, which runs from the x
    to the y axis, then holes, which run the other way. The area is that of the region's pixels; where two
    pixels touch by a corner alone, the rings hold one more so that they are simple, be it one of a region beside it.
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
        self.seed = min(self.seed, other.seed, key=lambda seed: seed[::-1])
        self.pixels += other.pixels
        self.probability_sum += other.probability_sum
        self.left, self.top = min(self.left, other.left), min(self.top, other.top)
        self.right, self.bottom = max(self.right, other.right), max(self.bottom, other.bottom)


def find_regions(
    map_file: MapFile, map_mpp: float, smallest_um2: float = 0.0, band_pixels: int = BAND_PIXELS
) -> Iterator[Region]:
    """The regions of every class but 0 that are not smaller than `smallest_um2`, class by class, as they end.

    The map is labelled in bands of rows; then each region is read again by its bounding box. Memory is that of
    a band, or of the largest region: a byte for each pixel of its box and about 200 for each corner of its
    rings, so 400 MB and more for one across 20000 x 20000 map pixels; 30 bytes for each where contours part it.
    """
    pixel_um2 = map_mpp**2
    for class_index in range(1, map_file.classes):
        for piece in label_class(map_file, class_index, band_rows(map_file, band_pixels)):
            if piece.pixels * pixel_um2 < smallest_um2:
                continue
            yield from outline(map_file, piece, map_mpp, smallest_um2)


def band_rows(map_file: MapFile, band_pixels: int) -> int:
    """Rows of a band."""
    return max(1, band_pixels // map_file.width)


def order_of(piece: Piece, map_file: MapFile, band_pixels: int = BAND_PIXELS) -> tuple[int, int, int, int]:
    """What the pieces of a map are ordered by when `find_regions` gives them out: class by class, by the band that no
    part of them reaches any more, by their first pixel.
    """
    last = piece.bottom // band_rows(map_file, band_pixels) if piece.bottom < map_file.height else map_file.height
    column, row = piece.seed
    return piece.class_index, last, row, column


def outline(map_file: MapFile, piece: Piece, map_mpp: float, smallest_um2: float) -> Iterator[Region]:
    """The region of a piece that is whole, or those that contours part it into, in the order of their first insides."""
    mask = read_piece(map_file, piece)
    if piece.class_index == map_file.contour_of:
        box = (piece.top, piece.bottom, piece.left, piece.right)
        probability, contour = (map_file.read(plane, *box) for plane in (piece.class_index, map_file.classes))
        labels = tell_apart(mask[1:-1, 1:-1], insides(probability, contour), smallest_um2 / map_mpp**2)
        if labels.max() > 1:
            for number, (left, top, right, bottom) in enumerate(boxes(labels).tolist(), start=1):
                part = labels[top:bottom, left:right] == number
                pixels, total = int(part.sum()), int(probability[top:bottom, left:right][part].sum())
                rings = trace(np.pad(part, 1))
                yield describe(piece.class_index, rings, (piece.left + left, piece.top + top), pixels, total, map_mpp)
            return
    place, sums = (piece.left, piece.top), (piece.pixels, piece.probability_sum)
    yield describe(piece.class_index, trace(mask), place, *sums, map_mpp)


def describe(
    class_index: int, rings: Iterable[Ring], place: tuple[int, int], pixels: int, probability_sum: int, map_mpp: float
) -> Region:
    """The region of so many pixels whose rings are told from `place`, (left, top) in map pixels."""
    moved = tuple(np.add(ring, place) for ring in rings)
    return Region(class_index, pixels * map_mpp**2, probability_sum / (255 * pixels), moved)


def label_class(map_file: MapFile, class_index: int, band: int) -> Iterator[Piece]:
    """The regions of one class, each as soon as it is whole: no more than those that reach the next band wait."""
    pieces: list[Piece] = []  # those in the row above the band
    above = np.full(map_file.width, -1)  # the piece of each pixel in that row
    for top, bottom in bands(map_file.height, band):
        mask = map_file.read(0, top, bottom) == class_index
        probability = map_file.read(class_index, top, bottom)
        uppermost, lowermost = label_band(mask, probability, class_index, top, pieces)
        roots = join(pieces, above, uppermost)
        inside = lowermost >= 0
        reaching, above[inside] = np.unique(roots[lowermost[inside]], return_inverse=True)
        above[~inside] = -1
        whole = roots == np.arange(len(pieces))
        whole[reaching] = False
        yield from (pieces[index] for index in np.flatnonzero(whole).tolist())
        pieces = [pieces[index] for index in reaching.tolist()]
    yield from pieces


def join(pieces: list[Piece], above: Indices, below: Indices) -> Indices:
    """Let the first of the pieces that touch across a seam absorb the others; returns the first for each piece.

    `above` and `below` are the pieces of the pixels on the seam's two sides, -1 outside.
    """
    parents = list(range(len(pieces)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    touching = (above >= 0) & (below >= 0)
    for upper, lower in np.unique(np.stack([above, below])[:, touching], axis=1).T.tolist():
        first, second = sorted((root(upper), root(lower)))
        if first != second:
            parents[second] = first
            pieces[first].absorb(pieces[second])
    return np.array([root(index) for index in parents], np.int64)


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
    """The mask of one region within its bounding box and a margin of one pixel."""
    height, width = piece.bottom - piece.top, piece.right - piece.left
    marked = np.zeros((height + 2, width + 2), np.uint8)
    for top, bottom in bands(height, max(1, BAND_PIXELS // width)):
        classes = map_file.read(0, piece.top + top, piece.top + bottom, piece.left, piece.right)
        marked[1 + top : 1 + bottom, 1:-1] = classes == piece.class_index
    column, row = piece.seed
    cv2.floodFill(marked, None, (column - piece.left + 1, row - piece.top + 1), 2, flags=4)
    marked >>= 1  # the region's 2 becomes 1, the 1 of its neighbours 0
    return marked.view(np.bool_)
