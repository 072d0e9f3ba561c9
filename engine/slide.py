"""Slides: what OpenSlide opens, plain images, arrays in memory."""

import math
import os
from pathlib import Path
from typing import Protocol, Self

import cv2
import numpy as np
import openslide
from numpy.typing import NDArray

from glassrt.engine.errors import GlassError, SlideError, UsageError
from glassrt.engine.tiff_tiles import TiffTiles, open_tiles

Pixels = NDArray[np.uint8]
Size = tuple[int, int]

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
PLAUSIBLE_MPP = (0.05, 20.0)  # finer than any objective resolves, coarser than any scan


class Slide(Protocol):
    """A pyramid of RGB images; `close` it, or use it as a context manager. Reading is thread-safe."""

    name: str
    path: Path | None  # of its file as it was given; None for what has none
    source: str
    mpp: float
    level_sizes: tuple[Size, ...]

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

    def read_level(self, level: int, level_xy: tuple[int, int], size: Size) -> Pixels:
        x, y = level_xy
        return self.pixels[y : y + size[1], x : x + size[0]]

    def close(self) -> None:
        """Nothing to free: the caller owns the array."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class OpenSlideSlide:
    """A slide file that OpenSlide reads. Transparent parts (never scanned) are white."""

    def __init__(self, path: Path, mpp: float | None) -> None:
        self.name = path.stem
        self.path: Path | None = path
        try:
            self._file = openslide.OpenSlide(path)
        except openslide.OpenSlideError as error:
            raise SlideError(f"{path}: OpenSlide cannot read it ({error}); copy it again or convert it") from error
        self._tiles: TiffTiles | None = None
        try:
            vendor = self._file.properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
            self.source = f"OpenSlide {vendor}"
            self.level_sizes = self._file.level_dimensions
            self.mpp = check_mpp(mpp, str(path)) if mpp is not None else self._stored_mpp(path)
            self._tiles = open_tiles(path, vendor, self.level_sizes)
            if self._tiles is not None and not self._tiles_agree():
                self._tiles.close()
                self._tiles = None
        except GlassError:
            self.close()
            raise

    def _tiles_agree(self) -> bool:
        """Whether tiles read directly have the very pixels that OpenSlide gives, on a piece of each level."""
        assert self._tiles is not None
        for level, (width, height) in enumerate(self.level_sizes):
            size = (min(64, width), min(64, height))
            middle = ((width - size[0]) // 2, (height - size[1]) // 2)
            if level and self.level_sizes[0][0] % width:
                continue  # OpenSlide interpolates where levels do not divide; level 0 stands for the file
            if not np.array_equal(self._tiles.read(level, *middle, *size), self._paint(level, middle, size)):
                return False
        return True

    def _stored_mpp(self, path: Path) -> float:
        values = [self._file.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
        if None in values:
            raise SlideError(f"{path}: the file does not say its resolution; pass it with --mpp")
        x, y = (float(value) for value in values if value is not None)
        for value in (x, y):
            if not PLAUSIBLE_MPP[0] <= value <= PLAUSIBLE_MPP[1]:
                raise SlideError(
                    f"{path}: the file claims {value:g} micrometres per pixel, which no scan has; "
                    "pass the true value with --mpp"
                )
        if abs(x - y) > 0.02 * x:
            raise SlideError(f"{path}: pixels are not square ({x:g} x {y:g} micrometres); convert the slide first")
        return math.sqrt(x * y)

    def read_level(self, level: int, level_xy: tuple[int, int], size: Size) -> Pixels:
        if self._tiles is not None:
            return self._tiles.read(level, *level_xy, *size)
        return self._paint(level, level_xy, size)

    def _paint(self, level: int, level_xy: tuple[int, int], size: Size) -> Pixels:
        (base_width, base_height), (width, height) = self.level_sizes[0], self.level_sizes[level]
        base_xy = (round(level_xy[0] * base_width / width), round(level_xy[1] * base_height / height))
        try:
            rgba = np.asarray(self._file.read_region(base_xy, level, size))
        except openslide.OpenSlideError as error:
            raise SlideError(f"{self.name}: damaged at x {base_xy[0]}, y {base_xy[1]} ({error})") from error
        rgb = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)
        rgb[rgba[..., 3] == 0] = 255
        return rgb  # type: ignore[return-value]

    def close(self) -> None:
        if self._tiles is not None:
            self._tiles.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_slide(path: Path | str, mpp: float | None = None) -> Slide:
    """The slide or image at `path`; the caller closes it.

    `mpp` (micrometres per pixel of the full resolution) replaces what the file says; plain images need it.
    Raises SlideError for a missing, broken or unscaled file.
    """
    path = Path(path)
    if not path.exists():
        raise SlideError(f"{path} does not exist")
    if not os.access(path, os.R_OK):
        raise SlideError(f"{path}: no permission to read it")
    if openslide.OpenSlide.detect_format(path) is not None:
        return OpenSlideSlide(path, mpp)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise SlideError(f"{path}: not a slide that OpenSlide reads, nor a PNG, JPEG, BMP or TIFF image")
    pixels = read_image(path)
    if mpp is None:
        raise SlideError(f"{path}: an image does not say its resolution; pass it with --mpp")
    return ArraySlide(pixels, mpp, path.stem, f"{path.suffix[1:].lower()} image", path)


def read_image(path: Path) -> Pixels:
    """RGB `[H, W, 3]` of a plain image file."""
    level = cv2.utils.logging.setLogLevel(
        cv2.utils.logging.LOG_LEVEL_SILENT
    )  # OpenCV tells of broken files on standard error as well
    try:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise SlideError(f"{path}: not a readable image ({error.err}); tile it as a TIFF slide") from error
    finally:
        cv2.utils.logging.setLogLevel(level)
    if pixels is None:
        raise SlideError(f"{path}: not a readable image; copy it again or convert it")
    return pixels.astype(np.uint8, copy=False)


def check_mpp(mpp: float, what: str) -> float:
    """`mpp` itself if a scan can have it; else a UsageError that names `what`."""
    low, high = PLAUSIBLE_MPP
    if not low <= mpp <= high:
        raise UsageError(f"{what}: --mpp {mpp:g} is not between {low} and {high} micrometres per pixel")
    return mpp
