"""Which part of a slide each result shows: viewers crop slides whose file says what was scanned.

Everything is computed on the whole level 0; `regions.geojson` alone is in the frame that viewers show, because they
read polygons as pixels of what they show.
"""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import Box
from glassrt.engine.slides.slide import Slide

WHOLE = "the whole slide"
SCANNED = "the scanned part, to which viewers such as QuPath crop (openslide.bounds)"


class Frame(msgspec.Struct, frozen=True):
    """What a result file shows: its first pixel and its extent in pixels of the slide's level 0."""

    origin: tuple[int, int]
    size: tuple[int, int]
    shows: str


def shown_part(slide: Slide) -> Box:
    """What viewers show of a slide, in level-0 pixels."""
    return slide.bounds or Box(0, 0, *slide.level_sizes[0])


def result_frames(slide: Slide) -> dict[str, Frame]:
    """The frame of each result file."""
    whole = Frame((0, 0), slide.level_sizes[0], WHOLE)
    shown = shown_part(slide)
    regions = whole if slide.bounds is None else Frame((shown.left, shown.top), shown.size, SCANNED)
    return {"map.ome.tif": whole, "regions.geojson": regions, "overlay.png": whole}


def keep_scanned(mask: NDArray[np.bool_], slide: Slide) -> NDArray[np.bool_]:
    """The part of a mask over the whole slide that lies on scanned pixels."""
    if slide.bounds is None:
        return mask
    across, down = (length / side for length, side in zip(mask.shape[::-1], slide.level_sizes[0], strict=True))
    columns = slice(math.floor(slide.bounds.left * across), math.ceil(slide.bounds.right * across))
    rows = slice(math.floor(slide.bounds.top * down), math.ceil(slide.bounds.bottom * down))
    kept = np.zeros_like(mask)
    kept[rows, columns] = mask[rows, columns]
    return kept
