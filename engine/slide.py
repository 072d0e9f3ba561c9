"""Slides: what OpenSlide opens, plain images, arrays in memory; and exact reading at any resolution.

Frames: `base` is level 0, `level` a stored pyramid level, `grid` the slide resampled to a wanted mpp.
A grid pixel's value depends on its position alone, never on the region it was read with, so regions tile
without seams.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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
PATCH = 128  # grid pixels interpolated at a time
MAX_READ_SIDE = 4096  # level pixels of one read: 64 MB as RGBA


class Slide(Protocol):
    """A pyramid of RGB images; `close` it, or use it as a context manager. Reading is thread-safe."""

    name: str
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

    def __init__(self, pixels: Pixels, mpp: float, name: str = "array", source: str = "memory") -> None:
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise SlideError(f"{name}: expected uint8 [H, W, 3], got {pixels.dtype} {list(pixels.shape)}")
        self.pixels, self.name, self.source = pixels, name, source
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
        alpha = rgba[..., 3]
        if alpha.min() < 255:
            rgb[alpha < 255] = 255
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
    if openslide.OpenSlide.detect_format(path) is not None:
        return OpenSlideSlide(path, mpp)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise SlideError(f"{path}: not a slide that OpenSlide reads, nor a PNG, JPEG, BMP or TIFF image")
    pixels = read_image(path)
    if mpp is None:
        raise SlideError(f"{path}: an image does not say its resolution; pass it with --mpp")
    return ArraySlide(pixels, mpp, path.stem, f"{path.suffix[1:].lower()} image")


def read_image(path: Path) -> Pixels:
    """RGB `[H, W, 3]` of a plain image file."""
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise SlideError(f"{path}: not a readable image; copy it again or convert it")
    return pixels.astype(np.uint8, copy=False)


def check_mpp(mpp: float, what: str) -> float:
    """`mpp` itself if a scan can have it; else a UsageError that names `what`."""
    low, high = PLAUSIBLE_MPP
    if not low <= mpp <= high:
        raise UsageError(f"{what}: --mpp {mpp:g} is not between {low} and {high} micrometres per pixel")
    return mpp


@dataclass(frozen=True)
class GridReader:
    """A slide resampled to `mpp`: the grid of `width` x `height` pixels, read region by region.

    Reads from the nearest finer level: averaged over whole blocks of level pixels, then bilinear with
    half-pixel centres. A slide already at `mpp` is read as it is. Regions must lie inside the grid.
    """

    slide: Slide
    mpp: float
    width: int = field(init=False)
    height: int = field(init=False)
    level: int = field(init=False)

    def __post_init__(self) -> None:
        base_width, base_height = self.slide.level_sizes[0]
        ratio = self.mpp / self.slide.mpp
        if abs(ratio - 1) < 0.005:  # closer than any scanner's calibration: leave the pixels alone
            ratio = 1.0
        width, height = (max(1, math.floor(side / ratio + 0.5)) for side in (base_width, base_height))
        finer = [index for index, size in enumerate(self.slide.level_sizes) if size[0] >= 0.99 * width]
        object.__setattr__(self, "width", width)
        object.__setattr__(self, "height", height)
        object.__setattr__(self, "level", finer[-1] if finer else 0)

    def read(self, x: int, y: int, width: int, height: int) -> Pixels:
        """RGB `[height, width, 3]` of the region whose first grid pixel is (x, y); owned by the caller."""
        level_width, level_height = self.slide.level_sizes[self.level]
        across = Resampling(level_width, self.width)
        down = Resampling(level_height, self.height)
        pixels = np.empty((height, width, 3), np.uint8)
        for top, rows in split(height, down.longest_run):
            for left, columns in split(width, across.longest_run):
                block = self._read_block(across, down, x + left, y + top, columns, rows)
                pixels[top : top + rows, left : left + columns] = block
        return pixels

    def read_all(self, threads: int) -> Pixels:
        """RGB `[height, width, 3]` of the whole grid, in strips shared among threads; for thumbnails."""
        pixels = np.empty((self.height, self.width, 3), np.uint8)

        def read_strip(strip: tuple[int, int]) -> None:
            top, rows = strip
            pixels[top : top + rows] = self.read(0, top, self.width, rows)

        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(read_strip, split(self.height, -(-self.height // (2 * threads)))):
                pass
        return pixels

    def _read_block(self, across: "Resampling", down: "Resampling", x: int, y: int, width: int, height: int) -> Pixels:
        if across.is_identity and down.is_identity:
            return self.slide.read_level(self.level, (x, y), (width, height))
        # Patches lie on a fixed lattice of the grid, so that a pixel is rounded alike in every region.
        start_x, start_y = x - x % PATCH, y - y % PATCH
        first_x, last_x = across.level_range(start_x, x + width)
        first_y, last_y = down.level_range(start_y, y + height)
        block = self.slide.read_level(self.level, (first_x, first_y), (last_x - first_x, last_y - first_y))
        block = average_blocks(block, across.block, down.block)
        pixels = np.empty((y + height - start_y, x + width - start_x, 3), np.uint8)
        for top, rows in split(pixels.shape[0], PATCH):
            for left, columns in split(pixels.shape[1], PATCH):
                offset = across.offset(start_x + left, first_x), down.offset(start_y + top, first_y)
                patch = resample(block, (across.ratio, down.ratio), offset, (columns, rows))
                pixels[top : top + rows, left : left + columns] = patch
        return pixels[y - start_y :, x - start_x :]


@dataclass(frozen=True)
class Resampling:
    """One axis from a level of `level_length` pixels to a grid of `length`: blocks averaged, then bilinear."""

    level_length: int
    length: int

    @property
    def block(self) -> int:
        """Level pixels averaged into one before interpolation, so that nothing is skipped."""
        return max(1, int(self.level_length / self.length + 1e-6))

    @property
    def ratio(self) -> float:
        """Averaged pixels per grid pixel, below 2."""
        return self.level_length / self.length / self.block

    @property
    def is_identity(self) -> bool:
        return self.level_length == self.length

    @property
    def longest_run(self) -> int:
        """Grid pixels that one read may cover."""
        return max(1, int((MAX_READ_SIDE - 4 * self.block) * self.length / self.level_length))

    def level_range(self, start: int, end: int) -> tuple[int, int]:
        """First and end level pixel that grid pixels `start`...`end` need, in whole blocks."""
        low = math.floor(self._position(start))
        high = math.floor(self._position(end - 1)) + 2
        return max(0, low * self.block), min(self.level_length, high * self.block)

    def offset(self, start: int, level_start: int) -> float:
        """Position of grid pixel `start` among the averaged pixels that begin at `level_start`."""
        return self._position(start) - level_start / self.block

    def _position(self, index: int) -> float:
        return ((index + 0.5) * self.level_length / self.length - self.block / 2) / self.block


def average_blocks(pixels: Pixels, across: int, down: int) -> Pixels:
    """Means over blocks of `across` x `down` pixels; the last block may be cut short by the slide's border."""
    if across == down == 1:
        return pixels
    height, width = pixels.shape[:2]
    missing_x, missing_y = -width % across, -height % down
    if missing_x or missing_y:
        pixels = cv2.copyMakeBorder(pixels, 0, missing_y, 0, missing_x, cv2.BORDER_REPLICATE)  # type: ignore[assignment]
    size = (pixels.shape[1] // across, pixels.shape[0] // down)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def resample(pixels: Pixels, ratio: tuple[float, float], offset: tuple[float, float], size: Size) -> Pixels:
    """Bilinear samples at `ratio` * (x, y) + `offset`, for x, y below `size`; beyond the border the nearest pixel."""
    # From the nearest corner: OpenCV computes positions in float32, exact enough only while they are small.
    corner_x, corner_y = (max(0, math.floor(each)) for each in offset)
    pixels = pixels[corner_y:, corner_x:]
    matrix = np.array([[ratio[0], 0, offset[0] - corner_x], [0, ratio[1], offset[1] - corner_y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(pixels, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[return-value]


def split(length: int, longest: int) -> list[tuple[int, int]]:
    """(start, count) of consecutive runs of at most `longest` that make up `length`."""
    return [(start, min(longest, length - start)) for start in range(0, length, longest)]
