"""Optical densities of pixels: colour, grain and stain, whatever they are of."""

from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.slides.slide import Pixels

Floats = NDArray[np.float32]
Value = TypeVar("Value", bound=np.generic)
BLACK, DARK = 30, 50  # levels: of no colour; darker than tissue
GRAIN_SIDE = 7
OFFSET = 8  # added to levels, so that the noise of dark pixels has no colour


def measure_density(pixels: Pixels) -> Floats:
    """Optical densities `[H, W, 3]` against full white."""
    levels = np.log((255 + OFFSET) / (np.arange(256, dtype=np.float32) + OFFSET)).astype(np.float32)
    return cv2.LUT(pixels, levels).astype(np.float32, copy=False)


def least(channels: NDArray[Value]) -> NDArray[Value]:
    """The least of three channels `[..., 3]`. NumPy's own way along so short an axis takes twenty times as long."""
    lesser: NDArray[Value] = np.minimum(np.minimum(channels[..., 0], channels[..., 1]), channels[..., 2])
    return lesser


def largest(channels: NDArray[Value]) -> NDArray[Value]:
    """The largest of three channels `[..., 3]`."""
    greater: NDArray[Value] = np.maximum(np.maximum(channels[..., 0], channels[..., 1]), channels[..., 2])
    return greater


def average(channels: Floats) -> Floats:
    """The mean of three channels `[..., 3]`."""
    return (channels[..., 0] + channels[..., 1] + channels[..., 2]) / np.float32(3)


def soften(values: Floats, sigma: float) -> Floats:
    """A Gaussian blur."""
    return cv2.GaussianBlur(values, (0, 0), sigma).astype(np.float32, copy=False)


def measure_grain(densities: Floats, side: int) -> Floats:
    """How much densities vary within three pixels, as the root of a mean square over `side` pixels."""
    fine = densities - soften(densities, 1.5)
    grain: Floats = np.sqrt(np.maximum(cv2.blur(average(fine * fine), (side, side)), 0))
    return grain


def measure_colour(densities: Floats) -> Floats:
    """The difference between the channels' largest and least density."""
    return largest(densities) - least(densities)


def measure_stain(densities: Floats) -> Floats:
    """The colour of densities against the glass; what is lighter than the glass in every channel has none."""
    return np.where(largest(densities) > 0, measure_colour(densities), np.float32(0))
