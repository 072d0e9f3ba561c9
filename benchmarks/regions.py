"""Pixels of a slide that benchmarks compute on."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.tissue.survey import find_tissue

LONGEST = 4096  # pixels of the region's side, at most


def read_region(path: Path, bundle: Bundle) -> NDArray[np.uint8]:
    """The slide at the bundle's resolution, or of a large one the part around its tissue's middle."""
    with open_slide(path) as slide:
        grid = GridReader(slide, bundle.manifest.mpp)
        tissue = find_tissue(slide).tissue
        rows, columns = np.nonzero(tissue)
        width, height = min(grid.width, LONGEST), min(grid.height, LONGEST)
        x = np.median(columns) / tissue.shape[1] * grid.width - width / 2 if len(columns) else 0
        y = np.median(rows) / tissue.shape[0] * grid.height - height / 2 if len(rows) else 0
        left, top = int(np.clip(x, 0, grid.width - width)), int(np.clip(y, 0, grid.height - height))
        return grid.read(left, top, width, height)


def fit_windows(pixels: NDArray[np.uint8], bundle: Bundle) -> NDArray[np.uint8]:
    """The upper left part of an image that whole windows of the network cover, so that all place them alike.

    What is smaller than a window stays as it is.
    """
    window, stride = bundle.manifest.window, bundle.manifest.stride
    height, width = (size - (size - window) % stride if size > window else size for size in pixels.shape[:2])
    return np.ascontiguousarray(pixels[:height, :width])
