"""Slides: what OpenSlide opens, plain images, arrays in memory."""

import os
import stat
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import openslide
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.slides.openslide_file import OpenSlideSlide
from glassrt.engine.slides.pictures.images import read_picture
from glassrt.engine.slides.resolution import check_mpp, choose_mpp

Pixels = NDArray[np.uint8]
Size = tuple[int, int]

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


class Slide(Protocol):
    """A pyramid of RGB images; `close` it, or use it as a context manager. Reading is thread-safe.

    `bounds` is the scanned part in level-0 pixels, to which viewers crop; None where it is the whole.
    """

    name: str
    path: Path | None  # of its file as it was given; None for what has none
    source: str
    mpp: float
    level_sizes: tuple[Size, ...]
    bounds: Box | None

    def read_level(self, level: int, level_xy: tuple[int, int], size: Size) -> Pixels:
        """RGB `[h, w, 3]` of a region that lies inside the level; owned by the caller."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class ArraySlide:
    """An image in memory as a slide of one level: uint8 RGB `[H, W, 3]` at `mpp` micrometres per pixel."""

    def __init__(
        self, pixels: Pixels, mpp: float, name: str = "array", source: str = "memory", path: Path | None = None
    ) -> None:
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise SlideError(f"{name}: expected uint8 [H, W, 3], got {pixels.dtype} {list(pixels.shape)}")
        self.pixels, self.name, self.source, self.path = pixels, name, source, path
        self.mpp = check_mpp(mpp, name)
        self.level_sizes: tuple[Size, ...] = ((pixels.shape[1], pixels.shape[0]),)
        self.bounds: Box | None = None

    def read_level(self, level: int, level_xy: tuple[int, int], size: Size) -> Pixels:
        x, y = level_xy
        return self.pixels[y : y + size[1], x : x + size[0]]

    def close(self) -> None:
        """Nothing to free: the caller owns the array."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_slide(path: Path | str, mpp: float | None = None) -> Slide:
    """The slide or image at `path`; the caller closes it.

    `mpp` (micrometres per pixel of the full resolution) replaces what the file says; most plain images say nothing.
    Raises SlideError for a missing, broken or unscaled file.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise SlideError(f"{path} does not exist") from error
    except OSError as error:
        raise SlideError(f"{path}: cannot be reached ({error.strerror})") from error
    if not stat.S_ISREG(mode):
        raise SlideError(f"{path}: not a file")
    if not os.access(path, os.R_OK):
        raise SlideError(f"{path}: no permission to read it")
    if openslide.OpenSlide.detect_format(path) is not None:
        return OpenSlideSlide(path, mpp)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise SlideError(f"{path}: not a slide that OpenSlide reads, nor a PNG, JPEG, BMP or TIFF image")
    picture = read_picture(path)
    mpp = choose_mpp(picture.mpp_x, picture.mpp_y, mpp, str(path), picture.doubt)
    return ArraySlide(picture.pixels, mpp, path.stem, f"{picture.form} image", path)
