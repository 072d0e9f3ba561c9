"""A slide judged band by band: where its tissue is, and whether it is a bright-field picture."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import bands
from glassrt.engine.slides.slide import Pixels
from glassrt.engine.slides.tissue.density import largest
from glassrt.engine.slides.tissue.glass import Glass
from glassrt.engine.slides.tissue.masks import Mask, clean
from glassrt.engine.slides.tissue.tissue import HALO, Judged, judge

COLUMNS = 1024  # judged at a time, for the memory of what is measured of them
COLOURS = 20_000  # stained pixels that are kept
# Shares by which a picture without glass is known not to be in bright field: its darkest pixels, and of the others
# those that are dim (a quarter at most of the densest stain, more than half of fluorescence) or green (inverted).
LEAST_LIGHT, MOST_DARK, MOST_DIM, MOST_GREEN = 0.005, 0.1, 0.4, 0.5
FEWEST_PIXELS = 16  # that can show that there is neither glass nor tissue
DIM, GREENER = 110, 8  # levels: of the brightest channel; of green above the others


class Survey(NamedTuple):
    """A slide as a whole.

    `thumbnail` is RGB of about 1,024 pixels, `tissue` a mask of the whole at about `mpp` micrometres per pixel, without
    margin. `colours` `[n, 3]` are pixels that look stained, `doubt` says why it looks like no bright-field picture.
    """

    thumbnail: Pixels
    tissue: Mask
    mpp: float
    glass: Glass
    colours: NDArray[np.uint8]
    doubt: str


class Surveyor:
    """Judges a slide band by band and keeps a byte a pixel."""

    def __init__(self, glass: Glass, size: tuple[int, int]) -> None:
        self._glass = glass
        self._found = np.zeros((size[1], size[0]), np.bool_)
        self._top = self._dark = self._light = self._dim = self._green = 0
        self._step = max(1, size[0] * size[1] // COLOURS)
        self._colours: list[NDArray[np.uint8]] = []

    def add(self, pixels: Pixels, first: int, end: int) -> None:
        """Add the band of rows `first`...`end` of `pixels`; the others are its neighbours."""
        bottom = self._top + end - first
        for left, right in bands(pixels.shape[1], COLUMNS):
            start = max(0, left - HALO)
            seen = np.ascontiguousarray(pixels[:, start : right + HALO])
            judged, own = judge(seen, self._glass), np.s_[first:end, left - start : right - start]
            self._found[self._top : bottom, left:right] = judged.stained[own] | judged.grey[own]
            self._count(seen[own], judged, own)
        self._top = bottom

    def _count(self, pixels: Pixels, judged: Judged, own: tuple[slice, slice]) -> None:
        self._dark += int(judged.dark[own].sum())
        self._light += int(judged.light[own].sum())
        red, green, blue = cv2.split(pixels)
        self._dim += int((largest(pixels) < DIM).sum())
        self._green += int((cv2.subtract(green, cv2.max(red, blue)) > GREENER).sum())
        self._colours.append(pixels[judged.stained[own]][:: self._step])

    def finish(self, thumbnail: Pixels, mpp: float) -> Survey:
        """The survey of what was added."""
        tissue = clean(self._found, mpp)
        colours = np.concatenate(self._colours)
        return Survey(thumbnail, tissue, mpp, self._glass, colours, self._doubt())

    def _doubt(self) -> str:
        pixels = self._found.size
        scanned = pixels - self._dark
        if not scanned:
            return "all of it is black: nothing was scanned, or not in bright field"
        no_glass = self._light < LEAST_LIGHT * scanned
        dim = self._dim - self._dark > MOST_DIM * scanned
        if no_glass and (dim or (self._dark > MOST_DARK * pixels and self._green > MOST_GREEN * scanned)):
            return "dark with brighter structures, as in fluorescence or inverted: not a bright-field picture"
        if no_glass and pixels >= FEWEST_PIXELS and not self._found.any():
            return "neither glass nor tissue can be seen: not a bright-field picture"
        return ""
