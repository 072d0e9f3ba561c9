"""Masks of a slide at 8 micrometres: grown, spread, rid of specks and holes."""

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import bands

Mask = NDArray[np.bool_]

SMALLEST_PIECE_UM2, SMALLEST_HOLE_UM2 = 2_000, 20_000
LABELLED_PIXELS = 20_000_000  # at a time, four bytes each
MARGIN_UM = 32.0


def spread(start: Mask, through: Mask, steps: int) -> Mask:
    """What can be reached from `start` in so many steps of a pixel."""
    reached, near = start, np.ones((3, 3), np.uint8)
    for _ in range(steps):
        reached = as_mask(cv2.dilate(reached.view(np.uint8), near)) & through
    return reached


def grow(mask: Mask, reach: int) -> Mask:
    """The mask with so many pixels around it."""
    return as_mask(cv2.dilate(mask.view(np.uint8), disc(reach)))


def disc(reach: int) -> NDArray[np.uint8]:
    """A round shape of so many pixels to each side."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)).astype(np.uint8)


def clean(mask: Mask, mpp: float) -> Mask:
    """The mask without pieces and holes too small to matter; `mpp` micrometres per pixel."""
    pieces = drop_small(mask, SMALLEST_PIECE_UM2 / mpp**2)
    return ~drop_small(~pieces, SMALLEST_HOLE_UM2 / mpp**2) if pieces.any() else pieces


def drop_small(mask: Mask, smallest: float, band: int = LABELLED_PIXELS) -> Mask:
    """The mask without its 8-connected pieces of fewer than `smallest` pixels, labelled in bands of `band` pixels.

    Each band is seen with as many rows around it as a piece that is too small can have: one that is cut there is not.
    """
    height, width = mask.shape
    around, kept = math.ceil(smallest), np.empty_like(mask)
    for top, bottom in bands(height, max(1, around, band // width)):
        first = max(0, top - around)
        part = np.ascontiguousarray(mask[first : bottom + around]).view(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
        large = stats[:, cv2.CC_STAT_AREA] >= smallest
        large[0] = False
        kept[top:bottom] = large[labels[top - first : bottom - first]]
    return kept


def widen(mask: Mask, mpp: float) -> Mask:
    """The mask with `MARGIN_UM` around it."""
    return grow(mask, max(1, round(MARGIN_UM / mpp)))


def as_mask(pixels: NDArray[Any]) -> Mask:
    """Bytes of 0 and 1 as booleans."""
    return pixels.view(np.bool_)
