"""Regions that touch, told apart: each grows from its own inside, which contours part from the others'."""

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import bands

Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]
BAND_PIXELS = 1_000_000  # whose coordinates are held at a time: 40 MB


def insides(probability: NDArray[np.uint8], contour: NDArray[np.uint8]) -> Mask:
    """Where a class is rather inside than at its contour, of round(255 p) `[h, w]` of both; the class has both."""
    return probability > 2 * contour.astype(np.uint16)


def tell_apart(mask: Mask, seeds: Mask, smallest: float) -> Labels:
    """`[h, w]`: one number, from 1 on, for each thing in `mask`, 0 elsewhere and on 4-connected parts of fewer than
    `smallest` pixels.

    What is 4-connected in `seeds`, of at least as many pixels, is one thing; the rest of the mask belongs to the one it
    is nearest to by a way within the mask. A part of the mask that holds no such seed is one thing itself.
    """
    parts, labels = (number_large(np.pad(each, 1), smallest) for each in (mask, mask & seeds))
    alone = np.ones(parts.max() + 1, np.int32)
    alone[parts[labels > 0]] = 0
    alone[0] = 0
    whole = (alone.cumsum() + labels.max()).astype(np.int32) * alone  # the number of each part without a seed
    labels += whole[parts]
    kept = parts > 0
    del parts
    grow(labels, kept)
    return np.ascontiguousarray(labels[1:-1, 1:-1])


def number_large(mask: Mask, smallest: float) -> Labels:
    """`[h, w]`: one number for each 4-connected part of at least `smallest` pixels, without gaps; 0 elsewhere."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] >= smallest
    large[0] = False
    numbers: Labels = (large.cumsum() * large).astype(np.int32)[labels]
    return numbers


def grow(labels: Labels, mask: Mask) -> None:
    """Give each pixel of `mask` the number of the label that reaches it first, pixel by pixel to the four sides, of two
    the lower one. Neither touches the border.
    """
    flat, free = labels.reshape(-1), (mask & (labels == 0)).reshape(-1)
    beside = cv2.dilate(free.reshape(mask.shape).view(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    front = np.flatnonzero(beside.reshape(-1).view(np.bool_) & (flat > 0))
    sides = np.array([-labels.shape[1], -1, 1, labels.shape[1]])
    while front.size:
        around = front[:, None] + sides
        reached = free[around]
        owners = np.broadcast_to(flat[front, None], around.shape)[reached]
        order = np.lexsort((owners, around[reached]))
        front, first = np.unique(around[reached][order], return_index=True)
        flat[front] = owners[order][first]
        free[front] = False


def boxes(labels: Labels) -> NDArray[np.int64]:
    """`[n, 4]`: left, top, right, bottom of each label from 1 on, ends excluded. Every number to the largest occurs."""
    height, width = labels.shape
    found = np.tile(np.array([width, height, 0, 0]), (labels.max() + 1, 1))
    for top, bottom in bands(height, max(1, BAND_PIXELS // width)):
        rows, columns = np.nonzero(labels[top:bottom])
        numbers, rows = labels[top + rows, columns], rows + top
        np.minimum.at(found[:, 0], numbers, columns)
        np.minimum.at(found[:, 1], numbers, rows)
        np.maximum.at(found[:, 2], numbers, columns + 1)
        np.maximum.at(found[:, 3], numbers, rows + 1)
    return found[1:]
