"""What OpenSlide's properties say of a slide: tiles, levels, resolution, bounds."""

from collections.abc import Mapping
from pathlib import Path

from glassrt.engine.errors import SlideError
from glassrt.engine.geometry.boxes import Box, Size
from glassrt.engine.slides.tiff.resolution import Stated

SIDE_ROUNDING = 1.5  # pixels by which a level's sides may differ from level 0's over one factor
MOST_TILE_PIXELS = 2**28  # a gigabyte as RGBA; where memory does not suffice, OpenSlide ends the whole process


def check_tiles(properties: Mapping[str, str], levels: int, path: Path) -> None:
    """Raise SlideError where a level's tiles are larger than any scanner writes."""
    for level in range(levels):
        width, height = read_tile(properties, level) or (0, 0)
        if width * height > MOST_TILE_PIXELS:
            raise SlideError(f"{path}: claims tiles of {width} x {height} pixels, which none has; copy the slide again")


def read_tile(properties: Mapping[str, str], level: int) -> Size | None:
    """Width and height of a level's tiles; None where it has none."""
    width, height = (int(properties.get(f"openslide.level[{level}].tile-{side}", 0)) for side in ("width", "height"))
    return (width, height) if width and height else None


def even_levels(sizes: tuple[Size, ...]) -> tuple[int, ...]:
    """The levels that show all of level 0 shrunk by one factor, but for the rounding of their sides.

    Others are another picture, padded or stretched: nothing says where their pixels lie on level 0.
    """
    width, height = sizes[0]

    def factors(length: int, side: int) -> tuple[float, float]:
        return length / (side + SIDE_ROUNDING), length / max(side - SIDE_ROUNDING, 0.5)

    kept = []
    for level, size in enumerate(sizes):
        (low_x, high_x), (low_y, high_y) = factors(width, size[0]), factors(height, size[1])
        if max(low_x, low_y) <= min(high_x, high_y):
            kept.append(level)
    return tuple(kept)


def read_properties(properties: Mapping[str, str]) -> Stated:
    """Micrometres per pixel as OpenSlide finds them in the file."""

    def along(axis: str) -> float | None:
        try:
            return float(properties[f"openslide.mpp-{axis}"])
        except (KeyError, ValueError):
            return None

    return Stated(along("x"), along("y"))


def read_bounds(properties: Mapping[str, str], size: Size) -> Box | None:
    """The scanned part of a slide of `size`, None where it is the whole, or where what the file says is no part."""
    try:
        left, top, width, height = (
            int(properties[f"openslide.bounds-{side}"]) for side in ("x", "y", "width", "height")
        )
    except (KeyError, ValueError):
        return None
    box = Box(left, top, min(left + width, size[0]), min(top + height, size[1]))
    if left < 0 or top < 0 or min(box.size) <= 0 or box.size == size:
        return None
    return box
