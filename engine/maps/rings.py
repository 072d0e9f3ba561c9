"""Outlines of masks along the edges of their pixels."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import Indices, bands

Mask = NDArray[np.bool_]
Ring = NDArray[np.float64]
BAND_PIXELS = 4_000_000  # of the map labelled at a time: 100 MB of labels and sums


def trace(mask: Mask) -> Iterator[Ring]:
    """Rings of a 4-connected mask along its pixel edges: simple, unclosed, the outline first, then holes.

    The mask has an empty margin of one pixel, where x and y are -1; its corners are filled in place. Outlines
    run from the x to the y axis, holes the other way. A ring turns where an odd number of the four pixels
    around a grid point is set. Along a row of grid points, edges join the turns pairwise from the left; along
    a column, from the top.
    """
    fill_corners(mask)
    ys, xs = find_turns(mask)
    by_column = np.lexsort((ys, xs))
    in_column = np.empty_like(by_column)
    in_column[by_column] = by_column[np.arange(len(by_column)) ^ 1]
    partners, points = in_column.tolist(), np.column_stack([xs, ys]).astype(np.float64)
    left = bytearray(b"\1") * len(partners)
    for start in range(0, len(partners), 2):
        ring, turn = [], start
        while left[turn]:
            other = turn ^ 1  # turns are numbered along rows
            left[turn] = left[other] = False
            ring += [turn, other]
            turn = partners[other]
        if ring:  # it begins in its upper left corner to the right; the uppermost of all is the outline
            yield points[ring if start == 0 else ring[::-1]]


def find_turns(mask: Mask) -> tuple[Indices, Indices]:
    """y and x of the grid points around which an odd number of pixels is set, row by row."""
    rows, columns = [], []
    for top, bottom in bands(mask.shape[0] - 1, max(1, BAND_PIXELS // mask.shape[1])):
        upper, lower = mask[top:bottom], mask[top + 1 : bottom + 1]
        ys, xs = np.nonzero(upper[:, :-1] ^ upper[:, 1:] ^ lower[:, :-1] ^ lower[:, 1:])
        rows.append(ys + top)
        columns.append(xs)
    return np.concatenate(rows), np.concatenate(columns)


def fill_corners(mask: Mask) -> None:
    """Add a pixel wherever two touch by a corner alone: rings must not touch themselves."""
    found = True
    while found:
        found = False
        for top, bottom in bands(mask.shape[0] - 1, max(1, BAND_PIXELS // mask.shape[1])):
            upper, lower = mask[top:bottom], mask[top + 1 : bottom + 1]
            a, b, c, d = upper[:, :-1], upper[:, 1:], lower[:, :-1], lower[:, 1:]
            apart = (a ^ b) & (a ^ c)
            falling, rising = apart & a & d, apart & ~a & ~d
            if falling.any() or rising.any():
                found = True
                upper[:, 1:] |= falling
                upper[:, :-1] |= rising
