"""Contours: what of a thing lies near its edge."""

import cv2
import numpy as np
from numpy.typing import NDArray


def mark_contours(instances: NDArray[np.uint8], width: float) -> NDArray[np.uint8]:
    """`[H, W]`: 0 where `instances` is, 2 on what of a thing is within `width` pixels of something else, 1 inside it.

    `instances` has one number a thing, 0 elsewhere. The image's border is no edge: a thing goes on behind it.
    """
    marked = np.zeros(instances.shape, np.uint8)
    for number in np.unique(instances[instances > 0]).tolist():
        thing = (instances == number).view(np.uint8)
        left, top, across, down = cv2.boundingRect(thing)
        place = np.s_[max(0, top - 1) : top + down + 1, max(0, left - 1) : left + across + 1]
        inside = thing[place] > 0
        distance = cv2.distanceTransform(thing[place], cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        marked[place][inside] = np.where(distance[inside] <= width, 2, 1)
    return marked
