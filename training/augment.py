"""Random views of an image and its mask, from random numbers that are passed in."""

import math
from collections.abc import Callable
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.training.metrics import IGNORE

Pixels = NDArray[np.uint8]
DISPLACED = 3  # points a side that an elastic deformation moves


def crop_at_random(
    pixels: Pixels, mask: Pixels, side: int, resize: tuple[float, float], rotate: bool, random: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """A square of `side` pixels of the image, resized by a factor drawn evenly from `resize`, mirrored half the time.

    With `rotate`, turned by any angle. The image is reflected beyond its border; its mask is `IGNORE` there.
    """
    height, width = mask.shape
    turn, scale = turn_at_random(resize, rotate, random)
    margin = side / 2 / max(scale, 1.0)
    centre = np.array([centre_at_random(random, width, margin), centre_at_random(random, height, margin)])
    matrix = lay_square(turn, centre, side)
    inverse, size = cv2.WARP_INVERSE_MAP, (side, side)
    image = cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_LINEAR | inverse, borderMode=cv2.BORDER_REFLECT_101)
    labels = cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_NEAREST | inverse, borderValue=IGNORE)
    return image.astype(np.uint8, copy=False), labels.astype(np.uint8, copy=False)


def turn_at_random(
    resize: tuple[float, float], rotate: bool, random: np.random.Generator
) -> tuple[NDArray[np.float64], float]:
    """`[2, 2]`, which takes steps in a view to those in its image, and how many times as large the view shows it.

    Mirrored half the time; with `rotate`, turned by any angle.
    """
    angle = random.uniform(0, 2 * math.pi) if rotate else 0.0
    scale = random.uniform(*resize)
    mirror = random.choice((-1.0, 1.0))
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    return np.array([[cosine * mirror, -sine], [sine * mirror, cosine]]), scale


def lay_square(turn: NDArray[np.float64], centre: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """`[2, 3]`: where the pixels of a square view of `side` pixels lie in its image, around `centre` (x, y)."""
    return np.column_stack([turn, centre - 0.5 - turn @ np.full(2, (side - 1) / 2)])


def centre_at_random(random: np.random.Generator, length: int, margin: float) -> float:
    """A position at least `margin` from both ends where there is room, else the middle."""
    return float(random.uniform(margin, length - margin)) if length > 2 * margin else length / 2


def crop_resized(pixels: Pixels, side: int, smallest: float, rotate: bool, random: np.random.Generator) -> Pixels:
    """A random square of the square `pixels`, of the share `smallest`..1 of its area, resized to `side`.

    Mirrored half of the time, then with `rotate` turned by quarters, without it flipped half of the time.
    """
    length = pixels.shape[0]
    cut = max(1, round(length * math.sqrt(random.uniform(smallest, 1))))
    top, left = random.integers(0, length - cut + 1, 2)
    square = pixels[top : top + cut, left : left + cut]
    square = square[:, :: random.choice((-1, 1))]
    square = np.rot90(square, int(random.integers(4))) if rotate else square[:: random.choice((-1, 1))]
    return cv2.resize(np.ascontiguousarray(square), (side, side)).astype(np.uint8, copy=False)


def deform(pixels: Pixels, side: int, elastic: float, rotate: bool, random: np.random.Generator) -> Pixels:
    """The middle `[side, side, 3]` of an image `[H, W, 3]`, warped elastically.

    Displacements are drawn on a grid of 3 x 3 with a standard deviation of `elastic` pixels and joined smoothly, as
    Ronneberger et al. do ("U-Net", MICCAI 2015). With `rotate` the image is turned by any angle and mirrored half of
    the time: one of 1.42 sides, and what displacements reach, has pixels for every corner; others are reflected beyond
    their border.
    """
    angle, mirror = (random.uniform(0, 2 * math.pi), random.random() < 0.5) if rotate else (0.0, False)
    knots = random.normal(0, elastic, (DISPLACED, DISPLACED, 2)).astype(np.float32)
    return warp(pixels, angle, mirror, cv2.resize(knots, (side, side), interpolation=cv2.INTER_CUBIC))


def warp(pixels: Pixels, angle: float, mirror: bool, displacement: NDArray[Any]) -> Pixels:
    """The middle `[S, S, 3]` of an image mirrored left to right, turned to the left by `angle` (radians), displaced.

    `displacement` `[S, S, 2]` (float32) is how far to the right and down of its own place a pixel is taken from, in
    pixels of the turned image. Bilinear; the image is reflected beyond its border.
    """
    side = displacement.shape[0]
    middle = (side - 1) / 2
    # Whole pixels from the image's border, so that nothing is interpolated where nothing moves.
    centre = [(length - side) // 2 + middle for length in (pixels.shape[1], pixels.shape[0])]
    x, y = np.moveaxis(displacement, 2, 0) + (np.indices((side, side), np.float32)[::-1] - middle)
    sign, cosine, sine = (-1 if mirror else 1), math.cos(angle), math.sin(angle)
    taken_x = (centre[0] + sign * (cosine * x - sine * y)).astype(np.float32)
    taken_y = (centre[1] + sine * x + cosine * y).astype(np.float32)
    warped = cv2.remap(pixels, taken_x, taken_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return warped.astype(np.uint8, copy=False)


def vary_stain(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Scale and shift each channel's optical density, then blur or add noise now and then."""
    density = -np.log((pixels.astype(np.float32) + 1) / 256)
    gain = random.uniform(0.75, 1.25) * random.uniform(0.9, 1.1, size=3).astype(np.float32)
    varied = 256 * np.exp(-(density * gain + random.uniform(-0.08, 0.08, size=3).astype(np.float32))) - 1
    if random.random() < 0.2:
        varied = cv2.GaussianBlur(varied, (0, 0), random.uniform(0.3, 1.2))
    if random.random() < 0.2:
        varied = varied + random.normal(0, random.uniform(1, 6), size=varied.shape).astype(np.float32)
    return to_bytes(varied)


def distort_photometrically(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Brightness, contrast, saturation and hue, each shifted half of the time.

    Ranges as in mmsegmentation, which OEEM trains with: 32 levels, factors 0.5-1.5, 36 degrees of hue.
    """

    def sometimes() -> bool:
        return bool(random.random() < 0.5)

    varied = pixels.astype(np.float32)
    if sometimes():
        varied += random.uniform(-32, 32)
    if sometimes():
        varied *= random.uniform(0.5, 1.5)
    hue, saturation, value = cv2.split(cv2.cvtColor(to_bytes(varied).astype(np.float32) / 255, cv2.COLOR_RGB2HSV))
    if sometimes():
        saturation = np.clip(saturation * random.uniform(0.5, 1.5), 0, 1)
    if sometimes():
        hue = (hue + random.uniform(-36, 36)) % 360
    return to_bytes(cv2.cvtColor(cv2.merge([hue, saturation, value]), cv2.COLOR_HSV2RGB) * 255)


def to_bytes(values: NDArray[Any]) -> Pixels:
    """Rounded and clipped to 0..255."""
    rounded: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded


Colour = Literal["stain", "photometric", "none"]
COLOURS: dict[Colour, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "stain": vary_stain,
    "photometric": distort_photometrically,
    "none": lambda pixels, random: pixels,
}


def turn(plane: Pixels, turns: int, mirror: bool) -> Pixels:
    """A square `[S, S, ...]` mirrored left to right, then turned to the left by so many quarters."""
    return np.ascontiguousarray(np.rot90(plane[:, ::-1] if mirror else plane, turns))


def turn_place(place: NDArray[np.float32], share: float, turns: int, mirror: bool) -> NDArray[np.float32]:
    """Where a part of the side `share` of a square lies after `turn`: x and y of its first pixel, as shares of that
    side.
    """
    x, y = place
    if mirror:
        x = 1 - x - share
    for _ in range(turns):
        x, y = y, 1 - x - share
    return np.array([x, y], np.float32)
