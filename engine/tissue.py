"""Which part of a slide is tissue, from a thumbnail."""

import cv2
import numpy as np
from numpy.typing import NDArray

# Optical densities are relative to the slide's own glass. In haematoxylin and eosin alike, green light is
# absorbed most: measured on colon and breast slides of several scanners, blue / green is 0.1-0.66 and
# red / green 0.03-1.04. Red ink lies at blue / green 0.75-0.98, green ink above 1.2, dust and black ink at 1;
# blue ink above red / green 1.2.
FAINTEST_GREEN = 0.10
HIGHEST_BLUE_TO_GREEN = 0.70
HIGHEST_RED_TO_GREEN = 1.15
GLASS_PERCENTILE = 97
DARKEST_GLASS = 200
SMALLEST_HOLE_UM2 = 20_000
SMALLEST_PIECE_UM2 = 5_000


def tissue_mask(pixels: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """Mask `[H, W]` of the tissue in an RGB thumbnail `[H, W, 3]` of `mpp` micrometres per pixel.

    Glass, dust, slide borders and pen marks are not tissue; nor is tissue under green, blue or black ink.
    Holes and pieces too small to hold a gland are filled and dropped.
    """
    glass = np.clip(np.percentile(pixels[::4, ::4], GLASS_PERCENTILE, axis=(0, 1)), DARKEST_GLASS, 255)
    levels = np.arange(256)[:, None]
    densities = np.maximum(0, np.log((glass + 1) / (levels + 1))).astype(np.float32)
    red, green, blue = (cv2.LUT(pixels[..., channel], densities[:, channel]) for channel in range(3))
    stained = (green > FAINTEST_GREEN) & (blue < HIGHEST_BLUE_TO_GREEN * green) & (red < HIGHEST_RED_TO_GREEN * green)
    pieces = drop_small(stained, SMALLEST_PIECE_UM2 / mpp**2)
    if not pieces.any():
        return pieces
    return ~drop_small(~pieces, SMALLEST_HOLE_UM2 / mpp**2)


def drop_small(mask: NDArray[np.bool_], smallest: float) -> NDArray[np.bool_]:
    """The mask without its 8-connected pieces of fewer than `smallest` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    kept = stats[:, cv2.CC_STAT_AREA] >= smallest
    kept[0] = False
    return kept[labels]  # type: ignore[no-any-return]
