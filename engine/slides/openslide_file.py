"""Slides that OpenSlide opens, read through it or, where that gives the same pixels, straight from their tiles."""

from pathlib import Path
from typing import Self

import cv2
import numpy as np
import openslide

from glassrt.engine.errors import GlassError, SlideError
from glassrt.engine.geometry.boxes import Box, Size
from glassrt.engine.slides.openslide_properties import check_tiles, even_levels, read_bounds, read_properties, read_tile
from glassrt.engine.slides.pictures.colours import over_white
from glassrt.engine.slides.resolution import choose_mpp
from glassrt.engine.slides.slide import Pixels, lay_levels
from glassrt.engine.slides.tiff.plain import open_tiles
from glassrt.engine.slides.tiff.resolution import read_stated
from glassrt.engine.slides.tiff.tiles import TiffTiles

SAMPLE_SIDE = 64
SHIFTED_TOLERANCE = 4  # grey levels, where OpenSlide interpolates between pixels
MARGIN = 2  # pixels at the edge of an interpolated sample, whose neighbours were not read


def open_openslide(path: Path, mpp: float | None) -> "OpenSlideSlide | None":
    """The slide at `path`, None if it is none for OpenSlide. Raises as `open_slide`."""
    return None if openslide.OpenSlide.detect_format(path) is None else OpenSlideSlide(path, mpp)


class OpenSlideSlide:
    """A slide file that OpenSlide reads. Transparent parts (never scanned) are white."""

    def __init__(self, path: Path, mpp: float | None) -> None:
        self.name = path.stem
        self._path = path
        self.path: Path | str | None = path
        self._tiles: TiffTiles | None = None
        self._file = self._open()
        try:
            properties = self._file.properties
            vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
            self.source = f"OpenSlide {vendor}"
            sizes = self._file.level_dimensions
            check_tiles(properties, len(sizes), path)
            self._levels = even_levels(sizes)
            self._downsamples = self._file.level_downsamples
            even = [sizes[level] for level in self._levels]
            self.levels = lay_levels(even, [read_tile(properties, level) for level in self._levels])
            self._tiles = open_tiles(path, vendor, sizes[0], tuple(even))
            stated = (read_stated(path) if vendor == "generic-tiff" else None) or read_properties(properties)
            self.mpp = choose_mpp(stated.x, stated.y, mpp, str(path), stated.doubt)
            self.bounds = read_bounds(properties, sizes[0])
            if self._tiles is not None and not all(
                self._agree(self._tiles, level, box) for level, box in self._tiles.samples(SAMPLE_SIDE)
            ):
                self._tiles.close()
                self._tiles = None
        except (GlassError, openslide.OpenSlideError) as error:
            self.close()
            if isinstance(error, GlassError):
                raise
            raise SlideError(f"{path}: OpenSlide cannot read it ({error}); copy it again or convert it") from error

    def _open(self) -> openslide.OpenSlide:
        try:
            return openslide.OpenSlide(str(self._path))
        except (openslide.OpenSlideError, OSError) as error:
            raise SlideError(
                f"{self._path}: OpenSlide cannot read it ({error}); copy it again or convert it"
            ) from error

    def _agree(self, tiles: TiffTiles, level: int, box: Box) -> bool:
        """Whether OpenSlide gives the very pixels that `tiles` does.

        Where OpenSlide fails, tiles that were decoded without a fault stand: its libtiff refuses some that are whole.
        """
        pixels = tiles.read(level, box.left, box.top, *box.size)
        try:
            painted = self._paint(level, (box.left, box.top), box.size)
        except SlideError:
            self._file.close()
            self._file = self._open()  # one that failed once gives nothing any more
            return True
        shift = self._shift(level, (box.left, box.top))
        if not any(shift):
            return np.array_equal(pixels, painted)
        matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
        shifted = cv2.warpAffine(
            pixels, matrix, box.size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )
        difference = cv2.absdiff(shifted, painted)[MARGIN:-MARGIN, MARGIN:-MARGIN]
        return not difference.size or int(difference.max()) <= SHIFTED_TOLERANCE

    def read_level(self, level: int, level_xy: tuple[int, int], size: Size) -> Pixels:
        if self._tiles is not None:
            return self._tiles.read(level, *level_xy, *size)
        return self._paint(level, level_xy, size)

    def _paint(self, level: int, level_xy: tuple[int, int], size: Size) -> Pixels:
        base_x, base_y = self._base_xy(level, level_xy)
        try:
            rgba = np.asarray(self._file.read_region((base_x, base_y), self._levels[level], size))
        except (openslide.OpenSlideError, OSError) as error:
            place = f"{size[0]} x {size[1]} pixels from x {base_x}, y {base_y}" + (f", level {level}" if level else "")
            raise SlideError(f"{self._path}: cannot be read: {place} ({error}); copy the slide again") from error
        return over_white(rgba)

    def _base_xy(self, level: int, level_xy: tuple[int, int]) -> tuple[int, int]:
        """The level-0 position from which OpenSlide, which divides both axes by one number, finds `level_xy`."""
        downsample = self._downsamples[self._levels[level]]
        return round(level_xy[0] * downsample), round(level_xy[1] * downsample)

    def _shift(self, level: int, level_xy: tuple[int, int]) -> tuple[float, float]:
        """How far beyond `level_xy` OpenSlide begins, as it takes whole level-0 pixels; below half of one."""
        downsample = self._downsamples[self._levels[level]]
        base_x, base_y = self._base_xy(level, level_xy)
        return base_x / downsample - level_xy[0], base_y / downsample - level_xy[1]

    def overview(self) -> None:
        """None: no file says which part of level 0 its pictures of the glass show."""

    def close(self) -> None:
        if self._tiles is not None:
            self._tiles.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_series(path: Path) -> str:
    """The UID of the DICOM series that a file is of; nothing where it is of none that OpenSlide reads.

    OpenSlide opens a series whole, from all files of the folder, whichever of them is named.
    """
    if not path.is_file():
        return ""
    try:
        with openslide.OpenSlide(str(path)) as file:
            return file.properties.get("dicom.SeriesInstanceUID", "")
    except (openslide.OpenSlideError, OSError):
        return ""
