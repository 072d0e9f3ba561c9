"""A slide resampled to any resolution, read region by region.

Frames: `level` is a stored pyramid level, `grid` the slide at the wanted mpp. A grid pixel's value depends on
its position alone, never on the region it was read with, so regions tile without seams.
"""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import Size
from glassrt.engine.geometry.views import shrink
from glassrt.engine.slides.slide import Pixels, Slide

PATCH = 128  # grid pixels interpolated at a time
MAX_READ_SIDE = 4096  # level pixels of one read: 64 MB as RGBA
FINER = 0.99  # of both sides of the grid: levels are read from down to this size
STRIP = 256  # grid rows of a strip, at least
SAME_MPP = 0.005  # relative; closer than any scanner's calibration


@dataclass(frozen=True)
class GridReader:
    """A slide resampled to `mpp`: the grid of `width` x `height` pixels, read region by region.

    Reads from the nearest finer level: averaged over whole blocks of level pixels, then bilinear with
    half-pixel centres. A slide already at `mpp` is read as it is. Regions must lie inside the grid. With a `factor` its
    pixels are so many times as large.
    """

    slide: Slide
    mpp: float
    factor: float = 1.0
    width: int = field(init=False)
    height: int = field(init=False)
    level: int = field(init=False)

    def __post_init__(self) -> None:
        base_width, base_height = self.slide.levels[0].size
        ratio = self.mpp / self.slide.mpp
        if abs(ratio - 1) < SAME_MPP:
            ratio = 1.0
        width, height = shrink(shrink((base_width, base_height), ratio), self.factor)
        finer = [
            index
            for index, (size, *_) in enumerate(self.slide.levels)
            if size[0] >= FINER * width and size[1] >= FINER * height
        ]
        object.__setattr__(self, "width", width)
        object.__setattr__(self, "height", height)
        object.__setattr__(self, "level", finer[-1] if finer else 0)

    @property
    def name(self) -> str:
        """The slide's."""
        return self.slide.name

    @property
    def base_size(self) -> Size:
        """Width and height of the slide's level 0."""
        return self.slide.levels[0].size

    def at(self, factor: float) -> "GridReader":
        """The same slide in pixels that are `factor` times as large as these."""
        return self if factor == 1 else GridReader(self.slide, self.mpp, self.factor * factor)

    def read(self, x: int, y: int, width: int, height: int) -> Pixels:
        """RGB `[height, width, 3]` of the region whose first grid pixel is (x, y); owned by the caller."""
        level_width, level_height = self.slide.levels[self.level].size
        across = Resampling(level_width, self.width)
        down = Resampling(level_height, self.height)
        pixels = np.empty((height, width, 3), np.uint8)
        for top, rows in split(height, down.longest_run):
            for left, columns in split(width, across.longest_run):
                block = self._read_block(across, down, x + left, y + top, columns, rows)
                pixels[top : top + rows, left : left + columns] = block
        return pixels

    def read_strips(self, threads: int) -> Iterator[Pixels]:
        """RGB `[rows, width, 3]` of the whole grid from top to bottom; no more than a strip a thread waits."""
        patch = Resampling(self.slide.levels[self.level].size[1], self.height).patch
        rows = -(-STRIP // patch) * patch  # on the lattice of patches, so that nothing is read twice
        waiting: deque[Future[Pixels]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            for top in range(0, self.height, rows):
                waiting.append(pool.submit(self.read, 0, top, self.width, min(rows, self.height - top)))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _read_block(self, across: "Resampling", down: "Resampling", x: int, y: int, width: int, height: int) -> Pixels:
        if across.is_identity and down.is_identity:
            return self.slide.read_level(self.level, (x, y), (width, height))
        # Patches lie on a fixed lattice of the grid, so that a pixel is rounded alike in every region.
        start_x, start_y = x - x % across.patch, y - y % down.patch
        first_x, last_x = across.level_range(start_x, x + width)
        first_y, last_y = down.level_range(start_y, y + height)
        block = self.slide.read_level(self.level, (first_x, first_y), (last_x - first_x, last_y - first_y))
        block = average_blocks(block, across.block, down.block)
        pixels = np.empty((y + height - start_y, x + width - start_x, 3), np.uint8)
        for top, rows in split(pixels.shape[0], down.patch):
            for left, columns in split(pixels.shape[1], across.patch):
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
    def _longest_read(self) -> int:
        """Grid pixels that one read may cover."""
        return max(1, int((MAX_READ_SIDE - 4 * self.block) * self.length / self.level_length))

    @property
    def patch(self) -> int:
        """Grid pixels interpolated at a time; fewer where they cover many level pixels."""
        return min(PATCH, max(1, self._longest_read // 2))

    @property
    def longest_run(self) -> int:
        """Grid pixels that can be asked for at once, in whole patches: a read begins up to a patch before them."""
        return (self._longest_read - self.patch + 1) // self.patch * self.patch

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


def scale_exactly(pixels: Pixels, size: Size) -> Pixels:
    """An image resized to `size` (width, height): bilinear, half-pixel centres, halves to even, in float64.

    Many scales put values halfway between two grey levels, where the last bit decides; there the sum is taken
    as it is commonly written, first along x, then along y, each as `low + (high - low) * weight`.
    """
    scaled = cv2.resize(pixels.astype(np.float64), size, interpolation=cv2.INTER_LINEAR)
    rounded = np.rint(scaled)
    ys, xs, channels = np.nonzero(np.abs(scaled - rounded) > 0.5 - 1e-6)
    left, right, across = neighbours(xs, pixels.shape[1], size[0])
    above, below, down = neighbours(ys, pixels.shape[0], size[1])
    corners = [[pixels[y, x, channels].astype(np.float64) for x in (left, right)] for y in (above, below)]
    upper, lower = (low + (high - low) * across for low, high in corners)
    rounded[ys, xs, channels] = np.rint(upper + (lower - upper) * down)
    return rounded.astype(np.uint8)


def neighbours(
    indices: NDArray[np.int64], length: int, scaled_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The two pixels of `length` that scaled pixels lie between, and the share of the second."""
    position = np.clip((indices + 0.5) * (length / scaled_length) - 0.5, 0, length - 1)
    low = np.floor(position).astype(np.int64)
    return low, np.minimum(low + 1, length - 1), position - low


def split(length: int, longest: int) -> list[tuple[int, int]]:
    """(start, count) of consecutive runs of at most `longest` that make up `length`."""
    return [(start, min(longest, length - start)) for start in range(0, length, longest)]
