"""Which part of a slide each result shows: viewers crop slides whose file says what was scanned.

Everything is computed on the whole level 0; `regions.geojson` alone is in the frame that viewers show, because they
read polygons as pixels of what they show.
"""

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import Box, Size
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
    return slide.bounds or Box(0, 0, *slide.levels[0].size)


def result_frames(slide: Slide) -> dict[str, Frame]:
    """The frame of each result file."""
    whole = Frame((0, 0), slide.levels[0].size, WHOLE)
    shown = shown_part(slide)
    regions = whole if slide.bounds is None else Frame((shown.left, shown.top), shown.size, SCANNED)
    return {"map.ome.tif": whole, "regions.geojson": regions, "overlay.png": whole}


def keep_scanned(mask: NDArray[np.bool_], slide: Slide) -> NDArray[np.bool_]:
    """The part of a mask over the whole slide that lies on scanned pixels."""
    if slide.bounds is None:
        return mask
    across, down = (length / side for length, side in zip(mask.shape[::-1], slide.levels[0].size, strict=True))
    columns = slice(math.floor(slide.bounds.left * across), math.ceil(slide.bounds.right * across))
    rows = slice(math.floor(slide.bounds.top * down), math.ceil(slide.bounds.bottom * down))
    kept = np.zeros_like(mask)
    kept[rows, columns] = mask[rows, columns]
    return kept


def place_part(part: NDArray[Any], frame: Box, whole: Size, fill: Any) -> NDArray[Any]:
    """A picture or mask `[h, w, ...]` of the part `frame` of a slide as one of all of it, `fill` beyond.

    What lies beside the slide is cut off; some of the frame must lie on it.
    """
    if frame == Box(0, 0, *whole):
        return part
    across, down = part.shape[1] / frame.size[0], part.shape[0] / frame.size[1]
    left, top = round(frame.left * across), round(frame.top * down)
    height, width = max(1, top + 1, round(whole[1] * down)), max(1, left + 1, round(whole[0] * across))
    placed = np.full((height, width, *part.shape[2:]), fill, part.dtype)
    kept = part[max(0, -top) : height - top, max(0, -left) : width - left]
    left, top = max(0, left), max(0, top)
    placed[top : top + kept.shape[0], left : left + kept.shape[1]] = kept
    return placed
