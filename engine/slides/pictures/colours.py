"""Samples of any width and transparency to the 8-bit RGB that a viewer shows; what is no bright-field picture."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError
from glassrt.engine.slides.slide import Pixels

Samples = NDArray[np.uint8] | NDArray[np.uint16]

UPRIGHT = 1
GREY = "is grey, so no stain can be told; save it in colour"
DIMMEST_WHITE = 2**15  # of 16 bits: cameras give 10 to 15, which would look black
HOT_SHARE = 0.001  # of samples, which may be brighter than white: faults of the camera, marks of a program
BAND = 512  # rows converted at a time, so that wide temporaries stay small
LOOKED_AT = 256  # rows and columns, evenly spread, that decide what a picture is
CONTRAST = 32  # grey levels by which a picture without colour differs from an empty one
UNLIT = 24  # grey levels of an unscanned area, in noise and lossy compression
FEWEST_LIT = 100  # pixels, below which nothing is said of the light


def to_eight_bits(samples: Samples, bits: int, path: Path) -> Pixels:
    """`samples` of `bits` significant bits as 8 bits, rounded; SlideError where 16 bits are not filled."""
    if samples.dtype == np.uint8 and bits == 8:
        return samples  # type: ignore[return-value]
    white = 2**bits - 1
    if bits == 16:
        check_filled(bright_value(samples[..., :3]), path)
    pixels = np.empty(samples.shape, np.uint8)
    for top in range(0, len(samples), BAND):
        pixels[top : top + BAND] = (samples[top : top + BAND].astype(np.uint32) * 255 + white // 2) // white
    return pixels


def bright_value(samples: Samples) -> int:
    """The value of 16 bits that all but the brightest samples stay within; those that are 0 do not count."""
    counts = np.zeros(2**16, np.int64)
    for top in range(0, len(samples), BAND):
        counts += np.bincount(samples[top : top + BAND].ravel(), minlength=2**16)
    counts[0] = 0
    return int(np.searchsorted(np.cumsum(counts), counts.sum() * (1 - HOT_SHARE)))


def check_filled(bright: int, path: Path) -> None:
    """Raise SlideError where 16-bit samples whose `bright_value` is this would look black."""
    if bright < DIMMEST_WHITE:
        raise SlideError(
            f"{path}: its 16-bit samples fill {bright.bit_length()} bits, so it would look black; save it with 8 bits"
        )


def check_opacity(rgba: Pixels, path: Path) -> None:
    """Raise SlideError where nothing of a picture is to be seen: many writers leave its transparency at zero."""
    if not rgba[..., 3].any():
        raise SlideError(
            f"{path}: all its pixels are fully transparent, which viewers take in different ways; "
            "save it without transparency"
        )


def over_white(rgba: Pixels) -> Pixels:
    """RGB of what lies before white, where colours are those that the opaque part alone would have."""
    rgb: Pixels = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)  # type: ignore[assignment]
    alpha = rgba[..., 3]
    seen_through = alpha < 255
    if seen_through.any():
        share = alpha[seen_through].astype(np.uint16)[:, None]
        rgb[seen_through] = (rgb[seen_through] * share + (255 * 255 - 255 * share) + 127) // 255
    return rgb


def premultiplied_over_white(rgba: Pixels) -> Pixels:
    """RGB of what lies before white, where colours are multiplied by their opacity already."""
    rgb: Pixels = np.empty((*rgba.shape[:2], 3), np.uint8)
    for top in range(0, len(rgba), BAND):
        band = rgba[top : top + BAND].astype(np.uint16)
        rgb[top : top + BAND] = np.minimum(band[..., :3] + (255 - band[..., 3:]), 255)
    return rgb


def turn_upright(pixels: Pixels, orientation: int) -> Pixels:
    """The picture as it is meant to be seen, for the orientation tag of TIFF and EXIF (1...8)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def check_stain(pixels: Pixels, what: Path | str) -> None:
    """Raise SlideError for a picture that shows no stain in transmitted light: grey, or bright on a dark ground.

    Unscanned black areas do not count, nor a picture of one grey level, which is empty glass.
    """
    rows, columns = (-(-length // LOOKED_AT) for length in pixels.shape[:2])
    red, green, blue = (pixels[::rows, ::columns, channel] for channel in range(3))
    brightest, dimmest = (each(each(red, green), blue) for each in (np.maximum, np.minimum))
    lit = brightest > UNLIT
    if np.array_equal(brightest, dimmest) and lit.any() and np.ptp(brightest[lit]) > CONTRAST:
        raise SlideError(f"{what}: all its pixels are grey, so no stain can be told; save it in colour")
    if lit.sum() >= FEWEST_LIT and np.median(dimmest[lit]) < UNLIT:
        raise SlideError(
            f"{what}: its ground is dark, as in fluorescence, and no stain in transmitted light; "
            "score a bright-field scan"
        )
