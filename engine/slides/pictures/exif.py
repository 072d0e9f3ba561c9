"""What stands beside the pixels of an image: which side is up, and how large they are."""

from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import tifffile

from glassrt.engine.errors import SlideError
from glassrt.engine.slides.pictures.colours import UPRIGHT, turn_upright
from glassrt.engine.slides.pictures.picture import Picture
from glassrt.engine.slides.slide import Pixels
from glassrt.engine.slides.tiff.resolution import check_unscaled, stated_by_tags


class Written(NamedTuple):
    """An image's orientation tag and micrometres per pixel along x and y."""

    orientation: int = UPRIGHT
    mpp: tuple[float | None, float | None] = (None, None)


def read_exif(path: Path, content: bytes) -> Written:
    """What an EXIF block says, a TIFF directory without a picture; nothing where it is broken, as for viewers.

    SlideError where it says that pixels are not square, in an unknown unit.
    """
    try:
        with tifffile.TiffFile(BytesIO(content)) as file:
            tags = file.pages.first.tags
            check_unscaled(path, tags)
            return Written(int(tags.valueof(274, UPRIGHT)), stated_by_tags(tags))
    except SlideError:
        raise
    except Exception:  # what a damaged block leads tifffile to
        return Written()


def upright(pixels: Pixels, form: str, written: Written) -> Picture:
    """A picture turned as its orientation tag says, and its resolution with it."""
    x, y = written.mpp
    if written.orientation in (5, 6, 7, 8):
        x, y = y, x
    if written.orientation != UPRIGHT:
        pixels = turn_upright(pixels, written.orientation)
    return Picture(pixels, form, x, y)
