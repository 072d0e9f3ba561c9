"""Which pixels of a slide at 8 micrometres are tissue, whatever its stain.

Stains and inks have colour, glass has none beside its tint; dust, borders and shadows are grey. What tells tissue from
ink at this resolution is grain: cells and fibres vary by a tenth of their density and more, ink on top of the cover
glass by a fiftieth. Only what is surely ink is left out, as a window of ink costs less than a missed one of tissue.
Everything is decided from pixels no farther than `HALO`, so that bands of a slide give what the whole would.
"""

from typing import NamedTuple

import cv2
import numpy as np

from glassrt.engine.slides.slide import Pixels
from glassrt.engine.slides.tissue.density import (
    BLACK,
    DARK,
    GRAIN_SIDE,
    Floats,
    average,
    largest,
    least,
    measure_density,
    measure_grain,
    measure_stain,
    soften,
)
from glassrt.engine.slides.tissue.glass import STRONGEST_TINT, Glass, find_flat, find_light
from glassrt.engine.slides.tissue.masks import Mask, as_mask, disc, grow, spread

TISSUE_MPP = 8.0
HALO = 96  # pixels around a band that its own are judged by: the steps of ink and what is measured around each
# Densities, natural logarithms. Measured on colon, breast, skin and lymph node and on made stains (`bench tissue`):
# 99 % of tissue is above 0.04, glass below 0.03; the grain of tissue is 0.06 of its density and more, of ink 0.03.
FAINTEST_COLOUR, FAINTEST_BROAD = 0.035, 0.028  # of a pixel, and of some pixels together
INK_COLOUR, INK_DENSITY = 0.25, 0.5
INK_GRAIN = 0.05
INK_CORE = 9  # pixels across, at least
INK_REACH = 24  # steps from there through what is as smooth, and then
INK_RIM, SAME_HUE = 12, 0.95  # steps through what is of its hue: the cosine between densities
GREY_DENSITY, GREY_GRAIN, GREY_SHARE, GREY_SIDE = 0.05, 0.025, 0.65, 17


class Judged(NamedTuple):
    """Pixels of a band: coloured like tissue, grainy without colour, dark, and light like glass."""

    stained: Mask
    grey: Mask
    dark: Mask
    light: Mask


def judge(pixels: Pixels, glass: Glass) -> Judged:
    """What each pixel of a band at `TISSUE_MPP` looks like; the outer `HALO` rows are judged by less than they need."""
    against_white = measure_density(pixels)
    densities = against_white - np.array(glass.densities, np.float32)
    flat = find_flat(pixels)
    densities[flat | grow(flat & (least(pixels) < 255), 1)] = 0  # what is averaged with the fill has its colour
    brightest = largest(pixels)
    smoothed = soften(densities, 0.7)
    colour = np.where(brightest < BLACK, np.float32(0), measure_stain(smoothed))
    grain = measure_grain(densities, GRAIN_SIDE)
    light = find_light(pixels, against_white, STRONGEST_TINT)
    ink = find_ink(smoothed, colour, grain)
    broad = measure_stain(soften(densities, 2.0))
    stained = ((colour > FAINTEST_COLOUR) | (broad > FAINTEST_BROAD) & (brightest >= BLACK)) & ~ink
    grainy = (average(densities) > GREY_DENSITY) & (grain > GREY_GRAIN) & (brightest >= BLACK)
    share = cv2.blur(grainy.astype(np.float32), (GREY_SIDE, GREY_SIDE))
    return Judged(stained, grainy & (share > GREY_SHARE) & ~ink, brightest < DARK, light)


def find_ink(densities: Floats, colour: Floats, grain: Floats) -> Mask:
    """Strokes of a pen: smooth and dense over at least `INK_CORE` pixels, and what fades from there as smoothly or,
    within `INK_RIM`, in the very hue, unless it belongs to tissue beyond.
    """
    density = cv2.blur(average(densities), (GRAIN_SIDE, GRAIN_SIDE))
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
