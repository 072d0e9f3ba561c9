"""Pixels at another resolution: averaged over whole blocks, then bilinear with half-pixel centres."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import Size
from glassrt.engine.slides.slide import Pixels

PATCH = 128  # grid pixels interpolated at a time
MAX_READ_SIDE = 4096  # level pixels of one read: 64 MB as RGBA


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
