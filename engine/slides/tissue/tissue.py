"""Which pixels of a slide at 8 micrometres are tissue, whatever its stain.

Stains and inks have colour, glass has none beside its tint; dust, borders and shadows are grey. What tells tissue from
ink at this resolution is grain: cells and fibres vary by a tenth of their density and more, ink on top of the cover
glass by a fiftieth. Only what is surely ink is left out, as a window of ink costs less than a missed one of tissue.
Everything is decided from pixels no farther than `HALO`, so that bands of a slide give what the whole would.
"""

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import bands

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

TISSUE_MPP = 8.0
HALO = 96  # pixels around a band that its own are judged by: the steps of ink and what is measured around each
# Densities, natural logarithms. Measured on colon, breast, skin and lymph node and on made stains (`bench tissue`):
# 99 % of tissue is above 0.04, glass below 0.03; the grain of tissue is 0.06 of its density and more, of ink 0.03.
FAINTEST_COLOUR, FAINTEST_BROAD = 0.035, 0.028  # of a pixel, and of some pixels together
DENSEST_TINT, STRONGEST_TINT = 0.06, 0.2  # of glass
LEAST_GLASS, MUCH_GLASS = 0.03, 0.35  # shares of a slide: to be believed, with a strong tint
INK_COLOUR, INK_DENSITY = 0.25, 0.5
INK_GRAIN = 0.05
INK_CORE = 9  # pixels across, at least
INK_REACH = 24  # steps from there through what is as smooth, and then
INK_RIM, SAME_HUE = 12, 0.95  # steps through what is of its hue: the cosine between densities
GREY_DENSITY, GREY_GRAIN, GREY_SHARE, GREY_SIDE = 0.05, 0.025, 0.65, 17
BLACK, DARK = 30, 50  # levels: of no colour; darker than tissue
GRAIN_SIDE = 7
FLAT_SIDE = 5  # pixels across
LIGHT, SMOOTH = 140, 0.008  # what may be glass: levels, grain
OFFSET = 8  # added to levels, so that the noise of dark pixels has no colour
SMALLEST_PIECE_UM2, SMALLEST_HOLE_UM2 = 2_000, 20_000
LABELLED_PIXELS = 20_000_000  # at a time, four bytes each
MARGIN_UM = 32.0


class Glass(NamedTuple):
    """Densities of red, green and blue of a slide's empty glass, against full white."""

    densities: tuple[float, float, float]


class Judged(NamedTuple):
    """Pixels of a band: coloured like tissue, grainy without colour, dark, and light like glass."""

    stained: Mask
    grey: Mask
    dark: Mask
    light: Mask


NEUTRAL = Glass((0.0, 0.0, 0.0))


def measure_density(pixels: Pixels) -> Floats:
    """Optical densities `[H, W, 3]` against full white."""
    levels = np.log((255 + OFFSET) / (np.arange(256, dtype=np.float32) + OFFSET)).astype(np.float32)
    return cv2.LUT(pixels, levels).astype(np.float32, copy=False)


def soften(values: Floats, sigma: float) -> Floats:
    """A Gaussian blur."""
    return cv2.GaussianBlur(values, (0, 0), sigma).astype(np.float32, copy=False)


def measure_grain(densities: Floats, side: int) -> Floats:
    """How much densities vary within three pixels, as the root of a mean square over `side` pixels."""
    fine = densities - soften(densities, 1.5)
    grain: Floats = np.sqrt(np.maximum(cv2.blur((fine * fine).mean(-1), (side, side)), 0))
    return grain


def measure_colour(densities: Floats) -> Floats:
    """The difference between the channels' largest and least density."""
    return densities.max(-1) - densities.min(-1)  # type: ignore[no-any-return]


def measure_stain(densities: Floats) -> Floats:
    """The colour of densities against the glass; what is lighter than the glass in every channel has none."""
    return np.where(densities.max(-1) > 0, measure_colour(densities), np.float32(0))


def find_light(pixels: Pixels, densities: Floats, tint: float) -> Mask:
    """Pixels that may be glass: light, smooth, of little colour."""
    light: Mask = (pixels.min(-1) >= LIGHT) & (measure_colour(densities) < tint)
    light &= measure_grain(densities, 3) < SMOOTH
    return light


def find_flat(pixels: Pixels) -> Mask:
    """Light squares of one very colour: filled in where nothing was scanned, as a camera's noise is never that even."""
    square = np.ones((FLAT_SIDE, FLAT_SIDE), np.uint8)
    least = cv2.erode(pixels, square)
    even = (least == cv2.dilate(pixels, square)).all(-1) & (least.min(-1) >= LIGHT)
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
        light = find_light(pixels, densities, STRONGEST_TINT) & (pixels.min(-1) < 255)
        bright = (pixels.max(-1) >= DARK) & (pixels.min(-1) < 255)
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
    mean = light.mean(-1)
    red, green, blue = np.median(light[mean <= np.median(mean)], axis=0).tolist()
    return Glass((red, green, blue))


def judge(pixels: Pixels, glass: Glass) -> Judged:
    """What each pixel of a band at `TISSUE_MPP` looks like; the outer `HALO` rows are judged by less than they need."""
    against_white = measure_density(pixels)
    densities = against_white - np.array(glass.densities, np.float32)
    flat = find_flat(pixels)
    densities[flat | grow(flat & (pixels.min(-1) < 255), 1)] = 0  # what is averaged with the fill has its colour
    brightest = pixels.max(-1)
    smoothed = soften(densities, 0.7)
    colour = np.where(brightest < BLACK, np.float32(0), measure_stain(smoothed))
    grain = measure_grain(densities, GRAIN_SIDE)
    light = find_light(pixels, against_white, STRONGEST_TINT)
    ink = find_ink(smoothed, colour, grain)
    broad = measure_stain(soften(densities, 2.0))
    stained = ((colour > FAINTEST_COLOUR) | (broad > FAINTEST_BROAD) & (brightest >= BLACK)) & ~ink
    grainy = (densities.mean(-1) > GREY_DENSITY) & (grain > GREY_GRAIN) & (brightest >= BLACK)
    share = cv2.blur(grainy.astype(np.float32), (GREY_SIDE, GREY_SIDE))
    return Judged(stained, grainy & (share > GREY_SHARE) & ~ink, brightest < DARK, light)


def find_ink(densities: Floats, colour: Floats, grain: Floats) -> Mask:
    """Strokes of a pen: smooth and dense over at least `INK_CORE` pixels, and what fades from there as smoothly or,
    within `INK_RIM`, in the very hue, unless it belongs to tissue beyond.
    """
    density = cv2.blur(densities.mean(-1), (GRAIN_SIDE, GRAIN_SIDE))
    smooth = grain < INK_GRAIN * (np.abs(density) + 0.02)
    dense = (colour > INK_COLOUR) | (density > INK_DENSITY)
    core = as_mask(cv2.morphologyEx((smooth & dense).view(np.uint8), cv2.MORPH_OPEN, disc(INK_CORE // 2)))
    if not core.any():
        return core
    ink = spread(core, smooth & (colour > FAINTEST_COLOUR) | core, INK_REACH)
    hue = cv2.blur(densities * ink[..., None], (2 * INK_RIM + 1, 2 * INK_RIM + 1))
    product = (hue * densities).sum(-1)
    alike = product > SAME_HUE * np.linalg.norm(hue, axis=-1) * np.linalg.norm(densities, axis=-1)
    rim = grow(spread(ink, alike | ink, INK_RIM), 1)
    seen = (colour > FAINTEST_COLOUR) & ~ink
    beyond = spread(seen & ~grow(ink, INK_RIM + 1), seen, INK_RIM)
    return ink | rim & ~beyond


def spread(start: Mask, through: Mask, steps: int) -> Mask:
    """What can be reached from `start` in so many steps of a pixel."""
    reached, near = start, np.ones((3, 3), np.uint8)
    for _ in range(steps):
        reached = as_mask(cv2.dilate(reached.view(np.uint8), near)) & through
    return reached


def grow(mask: Mask, reach: int) -> Mask:
    """The mask with so many pixels around it."""
    return as_mask(cv2.dilate(mask.view(np.uint8), disc(reach)))


def disc(reach: int) -> NDArray[np.uint8]:
    """A round shape of so many pixels to each side."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)).astype(np.uint8)


def as_mask(pixels: NDArray[Any]) -> Mask:
    """Bytes of 0 and 1 as booleans."""
    return pixels.view(np.bool_)


def clean(mask: Mask, mpp: float) -> Mask:
    """The mask without pieces and holes too small to matter; `mpp` micrometres per pixel."""
    pieces = drop_small(mask, SMALLEST_PIECE_UM2 / mpp**2)
    return ~drop_small(~pieces, SMALLEST_HOLE_UM2 / mpp**2) if pieces.any() else pieces


def drop_small(mask: Mask, smallest: float, band: int = LABELLED_PIXELS) -> Mask:
    """The mask without its 8-connected pieces of fewer than `smallest` pixels, labelled in bands of `band` pixels.

    Each band is seen with as many rows around it as a piece that is too small can have: one that is cut there is not.
    """
    height, width = mask.shape
    around, kept = math.ceil(smallest), np.empty_like(mask)
    for top, bottom in bands(height, max(1, around, band // width)):
        first = max(0, top - around)
        part = np.ascontiguousarray(mask[first : bottom + around]).view(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
        large = stats[:, cv2.CC_STAT_AREA] >= smallest
        large[0] = False
        kept[top:bottom] = large[labels[top - first : bottom - first]]
    return kept


def widen(mask: Mask, mpp: float) -> Mask:
    """The mask with `MARGIN_UM` around it."""
    return grow(mask, max(1, round(MARGIN_UM / mpp)))
