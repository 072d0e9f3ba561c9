"""A picture of a slide that is made while it is scanned, where nobody has seen it before."""

import cv2
import numpy as np

from glassrt.engine.geometry.boxes import Box
from glassrt.engine.slides.push import PushSlide
from glassrt.engine.slides.slide import Overview, Pixels
from glassrt.engine.slides.tissue.tissue import TISSUE_MPP

MOST_PIXELS = 2**26  # of the picture: a slide beyond 75 x 55 mm gets larger ones


class Glimpse:
    """The slide at 8 micrometres as its tiles come, white where none has. Threads may add at once."""

    def __init__(self, slide: PushSlide, level: int) -> None:
        self._slide, self._level = slide, level
        width, height = slide.levels[level].size
        mpp = slide.mpp * slide.levels[level].scale[0]
        self._factor = max(1.0, TISSUE_MPP / mpp, (width * height / MOST_PIXELS) ** 0.5)
        size = (max(1, round(height / self._factor)), max(1, round(width / self._factor)), 3)
        self._pixels = np.full(size, 255, np.uint8)

    def add(self, row: int, column: int) -> None:
        """A tile has come."""
        self._paint(row, column, self._slide.look(self._level, row, column))

    def finish(self) -> Overview:
        """The picture of all that has come, also of tiles that have not come whole."""
        for row, column in self._slide.list_partly(self._level):
            box = self._slide.block_box(self._level, row, column)
            self._paint(row, column, self._slide.read_level(self._level, (box.left, box.top), box.size))
        return self.overview()

    def _paint(self, row: int, column: int, block: Pixels) -> None:
        box = self._slide.block_box(self._level, row, column)
        left, top, right, bottom = (round(each / self._factor) for each in (box.left, box.top, box.right, box.bottom))
        if left < right and top < bottom:
            small = cv2.resize(block, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
            place = self._pixels[top:bottom, left:right]
            place[:] = small[: len(place), : place.shape[1]]

    def overview(self) -> Overview:
        """The picture so far."""
        return Overview(self._pixels, Box(0, 0, *self._slide.levels[0].size))
