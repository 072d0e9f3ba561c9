"""Windows of real tissue from a folder of slides and images, read as the engine reads them."""

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundle import Manifest
from glassrt.engine.errors import SlideError, UsageError
from glassrt.engine.grid import GridReader
from glassrt.engine.overview import find_tissue
from glassrt.engine.slide import IMAGE_SUFFIXES, Slide, open_slide
from glassrt.engine.windows import plan

WANTED = 32
FEWEST = 8
LEAST_TISSUE = 0.25  # of a window's area
SEED = 1

Windows = NDArray[np.uint8]


def collect_windows(folder: Path, manifest: Manifest, wanted: int = WANTED) -> Windows:
    """`[n, window, window, 3]` of tissue, spread over the folder's files and the bundle's scales; the same each time.

    Images, which do not say their resolution, are taken to have the bundle's. Raises UsageError for a folder with
    fewer than eight such windows.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: name one that holds slides or images of the bundle's tissue")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    random = np.random.default_rng(SEED)
    sources = [offer_windows(path, manifest, random) for path in files]
    windows: list[Windows] = []
    while sources and len(windows) < wanted:  # a window of each file in turn
        for source in list(sources):
            window = next(source, None)
            if window is None:
                sources.remove(source)
            elif len(windows) < wanted:
                windows.append(window)
    if len(windows) < FEWEST:
        raise UsageError(
            f"{folder} gave {len(windows)} windows of {manifest.window} pixels with tissue, {FEWEST} are needed: "
            "add slides or images of the bundle's tissue"
        )
    return np.stack(windows)


def offer_windows(path: Path, manifest: Manifest, random: np.random.Generator) -> Iterator[Windows]:
    """Windows of tissue from one file in random order; none if it is neither slide nor image."""
    mpp = manifest.mpp if path.suffix.lower() in IMAGE_SUFFIXES else None
    try:
        slide = open_slide(path, mpp)
    except SlideError:
        return
    with slide:
        tissue = find_tissue(slide).tissue
        scales = random.permutation(np.array(manifest.scales))
        offers = [offer_at_scale(slide, manifest, float(scale), tissue, random) for scale in scales]
        while offers:
            for offer in list(offers):
                window = next(offer, None)
                if window is None:
                    offers.remove(offer)
                else:
                    yield window


def offer_at_scale(
    slide: Slide, manifest: Manifest, scale: float, tissue: NDArray[np.bool_], random: np.random.Generator
) -> Iterator[Windows]:
    """The windows of a slide at one scale that hold enough tissue, in random order."""
    grid = GridReader(slide, manifest.mpp / scale)
    if min(grid.width, grid.height) < manifest.window:
        return
    laid = plan((grid.width, grid.height), (1.0,), False, manifest.window, manifest.stride, tissue)
    across, down = tissue.shape[1] / grid.width, tissue.shape[0] / grid.height
    for _, x, y in random.permutation(laid.windows).tolist():
        top, bottom = int(y * down), math.ceil((y + manifest.window) * down)
        left, right = int(x * across), math.ceil((x + manifest.window) * across)
        if tissue[top:bottom, left:right].mean() >= LEAST_TISSUE:
            yield grid.read(x, y, manifest.window, manifest.window)


def paint_window(side: int) -> Windows:
    """`[1, side, side, 3]` in the colours of a stain, for want of real tissue: pink, purple and glass in patches."""
    random = np.random.default_rng(SEED)
    colors = np.array([[240, 238, 240], [225, 150, 190], [110, 70, 150]], np.float32)
    patches = random.dirichlet((0.4, 0.4, 0.4), (side // 16 + 1, side // 16 + 1)).astype(np.float32)
    shares = cv2.resize(patches, (side, side), interpolation=cv2.INTER_LINEAR)
    painted = shares @ colors + random.normal(0, 8, (side, side, 1)).astype(np.float32)
    return painted.clip(0, 255).astype(np.uint8)[None]
