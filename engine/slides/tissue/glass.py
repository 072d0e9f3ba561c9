"""The colour of a slide's glass, learned from pieces of it."""

from typing import NamedTuple

import cv2
import numpy as np

from glassrt.engine.slides.slide import Pixels
from glassrt.engine.slides.tissue.density import (
    DARK,
    Floats,
    average,
    largest,
    least,
    measure_colour,
    measure_density,
    measure_grain,
)
from glassrt.engine.slides.tissue.masks import Mask, as_mask, grow

DENSEST_TINT, STRONGEST_TINT = 0.06, 0.2  # of glass
LEAST_GLASS, MUCH_GLASS = 0.03, 0.35  # shares of a slide: to be believed, with a strong tint
FLAT_SIDE = 5  # pixels across
LIGHT, SMOOTH = 140, 0.008  # what may be glass: levels, grain


class Glass(NamedTuple):
    """Densities of red, green and blue of a slide's empty glass, against full white."""

    densities: tuple[float, float, float]


NEUTRAL = Glass((0.0, 0.0, 0.0))


def find_light(pixels: Pixels, densities: Floats, tint: float) -> Mask:
    """Pixels that may be glass: light, smooth, of little colour."""
    light: Mask = (least(pixels) >= LIGHT) & (measure_colour(densities) < tint)
    light &= measure_grain(densities, 3) < SMOOTH
    return light


def find_flat(pixels: Pixels) -> Mask:
    """Light squares of one very colour: filled in where nothing was scanned, as a camera's noise is never that even."""
    square = np.ones((FLAT_SIDE, FLAT_SIDE), np.uint8)
    darkest = cv2.erode(pixels, square)
    even = least(darkest == cv2.dilate(pixels, square)) & (least(darkest) >= LIGHT)
    return as_mask(cv2.dilate(even.view(np.uint8), square))


def find_glass(samples: list[Pixels]) -> Glass:
    """The glass of a slide from pieces of it: the middle of the lighter half of what may be glass.

    Pixels of full white, in which nothing was scanned, do not count, nor what is flat or black unless there is no other
    glass. Glass of much colour, as under a lamp that was not balanced, is believed where there is much of it. Without
    glass, as in a picture full of tissue, it is taken to be white: all tissue is seen then.
    """
    scanned, filled = [], []
    seen = flat_seen = 0
    for pixels in samples:
        densities, flat = measure_density(pixels), find_flat(pixels)
        light = find_light(pixels, densities, STRONGEST_TINT) & (least(pixels) < 255)
        bright = (largest(pixels) >= DARK) & (least(pixels) < 255)
        beside = grow(flat, FLAT_SIDE // 2)  # what is averaged of fill and scan is neither's colour
        scanned.append(densities[light & ~beside])
        filled.append(densities[light & beside])
        seen += int((bright & ~beside).sum())
        flat_seen += int((bright & beside).sum())
    return (
        believe_glass(np.concatenate(scanned), seen)
        or believe_glass(np.concatenate([*scanned, *filled]), seen + flat_seen)
        or NEUTRAL
    )


def believe_glass(tinted: Floats, seen: int) -> Glass | None:
    """The glass that densities `[n, 3]` show, if they are enough of the pixels seen."""
    light = tinted[measure_colour(tinted) < DENSEST_TINT]
    if len(light) <= LEAST_GLASS * seen:
        light = tinted
        if len(light) <= MUCH_GLASS * seen:
            return None
    mean = average(light)
    red, green, blue = np.median(light[mean <= np.median(mean)], axis=0).tolist()
    return Glass((red, green, blue))
