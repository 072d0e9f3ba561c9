"""Folders of images and nuclei as CRCHistoPhenotypes publishes them."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.io

from glassrt.training.datasets import crchisto

NONE = np.zeros((0, 2), np.uint8)  # as the set has it for a class without a nucleus


def make_image(folder: Path, number: int = 1, **points: Any) -> Path:
    """A folder of an image of 60 x 50 whose pixel (x, y) is 100 + (x, y, x + y)."""
    place = folder / f"img{number}"
    place.mkdir(parents=True)
    y, x = np.mgrid[:50, :60]
    cv2.imwrite(str(place / f"img{number}.bmp"), (100 + np.stack([x + y, y, x], -1)).astype(np.uint8))  # blue first
    for kind in crchisto.KINDS:
        value = points.get(kind, NONE)
        scipy.io.savemat(place / f"img{number}_{kind}.mat", {"detection": value})
    return place
