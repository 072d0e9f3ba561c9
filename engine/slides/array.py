"""Images in memory as slides."""

from pathlib import Path
from typing import Self

import numpy as np

from glassrt.engine.errors import SlideError
from glassrt.engine.geometry.boxes import Box, Size
from glassrt.engine.slides.resolution import check_mpp
from glassrt.engine.slides.slide import Level, Overview, Pixels, lay_levels


class ArraySlide:
    """An image in memory as a slide of one level: uint8 RGB `[H, W, 3]` at `mpp` micrometres per pixel.

    An `overview` shows it as whoever made it saw it whole: tissue is looked for there.
    """

    def __init__(
        self,
        pixels: Pixels,
        mpp: float,
        name: str = "array",
        source: str = "memory",
        path: Path | None = None,
        overview: Overview | None = None,
    ) -> None:
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise SlideError(f"{name}: expected uint8 [H, W, 3], got {pixels.dtype} {list(pixels.shape)}")
        self.pixels, self.name, self.source = pixels, name, source
        self.path: Path | str | None = path
        self.mpp = check_mpp(mpp, name)
        self.levels: tuple[Level, ...] = lay_levels([(pixels.shape[1], pixels.shape[0])])
        self.bounds: Box | None = None
        self._overview = overview

    def read_level(self, level: int, level_xy: tuple[int, int], size: Size) -> Pixels:
        x, y = level_xy
        return self.pixels[y : y + size[1], x : x + size[0]]

    def overview(self) -> Overview | None:
        return self._overview

    def close(self) -> None:
        """Nothing to free: the caller owns the array."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
