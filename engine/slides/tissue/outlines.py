"""Outlines of tissue, drawn as a mask."""

import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError
from glassrt.engine.geometry.boxes import Size
from glassrt.engine.slides.tissue.masks import Mask
from glassrt.engine.slides.tissue.polygons import IGNORED, Ring, find_polygons, read_json
from glassrt.engine.slides.tissue.tissue import TISSUE_MPP

DRAWN_PIXELS = 2**24  # of a mask: finer than `TISSUE_MPP` on most slides
OUTSIDE = 1.0  # level-0 pixels that outlines may lie beyond the border
SHIFT = 4  # binary digits of a pixel's fraction in OpenCV's drawing
CROSSED = 2**20  # borders of rows of pixels found at a time


def draw(path: Path, shown: Size, mpp: float) -> Mask:
    """A mask from the polygons of a GeoJSON file: the pixels whose centres they hold, so that areas are right.

    Where they are so thin that they hold none, the pixels that they touch.
    """
    ratio = max(1.0, min(TISSUE_MPP / mpp, (shown[0] * shown[1] / DRAWN_PIXELS) ** 0.5))
    size = (max(1, round(shown[0] / ratio)), max(1, round(shown[1] / ratio)))
    mask = np.zeros((size[1], size[0]), np.uint8)
    scale = np.array([size[0] / shown[0], size[1] / shown[1]])
    content, ignored = read_json(path), set[str]()
    for mark in (fill, touch):
        for rings in find_polygons(content, path, ignored):
            check_place(np.concatenate(rings), shown, path)
            mark(mask, [ring * scale for ring in rings])
        if mask.any():
            return mask.view(np.bool_)
    if ignored:
        raise SlideError(
            f"{path}: marks no tissue: all that it holds is of classes that QuPath ignores, whose names end in "
            f"{IGNORED}; give the tissue another class"
        )
    raise SlideError(f"{path}: marks no tissue: it holds no polygon")


def check_place(corners: Ring, shown: Size, path: Path) -> None:
    """Raise SlideError for corners that lie outside the slide."""
    outside = (corners < -OUTSIDE) | (corners > (shown[0] + OUTSIDE, shown[1] + OUTSIDE))
    if outside.any():
        x, y = corners[outside.any(1)][0].tolist()
        raise SlideError(
            f"{path}: x {x:g}, y {y:g} lies outside the slide's {shown[0]} x {shown[1]} pixels: "
            "is it the mask of this slide, in pixels of its full resolution?"
        )


def frame(corners: Ring, mask: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of a mask that holds all corners."""
    height, width = mask.shape
    (low_x, low_y), (high_x, high_y) = corners.min(0).tolist(), corners.max(0).tolist()
    left, top = min(max(0, math.floor(low_x)), width - 1), min(max(0, math.floor(low_y)), height - 1)
    return left, top, min(max(left, math.ceil(high_x)) + 1, width), min(max(top, math.ceil(high_y)) + 1, height)


def fill(mask: NDArray[np.uint8], rings: list[Ring]) -> None:
    """Set the pixels whose centres lie in a polygon without its holes."""
    corners = np.concatenate(rings)
    left, top, right, bottom = frame(corners, mask)
    # Counted from pixels' centres, an edge crosses whole rows: in each, what lies right of it changes sides.
    x, y = (corners - (left + 0.5, top + 0.5)).T
    to_x, to_y = (np.concatenate([p for ring in rings for p in (ring[1:], ring[:1])]) - (left + 0.5, top + 0.5)).T
    first, end = (np.ceil(pick(y, to_y)).clip(0, bottom - top).astype(np.int64) for pick in (np.minimum, np.maximum))
    rows, across, down = end - first, to_x - x, to_y - y
    part = np.zeros((bottom - top, right - left + 1), np.uint8)
    at_once = max(1, CROSSED // max(1, int(rows.max())))
    for start in range(0, len(x), at_once):
        count = rows[start : start + at_once]
        edge = np.repeat(np.arange(start, start + len(count)), count)
        row = first[edge] + np.arange(len(edge)) - np.repeat(count.cumsum() - count, count)
        place = x[edge] + (row - y[edge]) * across[edge] / down[edge]
        np.bitwise_xor.at(part, (row, np.ceil(place).clip(0, right - left).astype(np.int64)), 1)
    mask[top:bottom, left:right] |= np.bitwise_xor.accumulate(part, axis=1)[:, :-1]


def touch(mask: NDArray[np.uint8], rings: list[Ring]) -> None:
    """Set the pixels that a polygon without its holes touches."""
    left, top, right, bottom = frame(np.concatenate(rings), mask)
    part = np.zeros((bottom - top, right - left), np.uint8)
    # OpenCV counts from pixels' centres.
    places = [np.rint((ring - (left + 0.5, top + 0.5)) * 2**SHIFT).astype(np.int32) for ring in rings]
    cv2.fillPoly(part, places, 1, shift=SHIFT)
    mask[top:bottom, left:right] |= part
