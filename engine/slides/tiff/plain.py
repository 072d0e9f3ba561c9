"""TIFF slides (SVS and plain) of which every tile is plain: those whose pixels need no OpenSlide."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from glassrt.engine.errors import SlideError
from glassrt.engine.geometry.boxes import Size
from glassrt.engine.slides.tiff.jpeg import JPEG
from glassrt.engine.slides.tiff.pages import check_pictures, list_pages, size_of
from glassrt.engine.slides.tiff.samples import RGB, YCBCR, check_samples, check_transparency
from glassrt.engine.slides.tiff.tiles import TiffTiles

VENDORS = ("aperio", "generic-tiff")
COMPRESSIONS = (1, 5, JPEG, 8)  # the others: none, LZW, deflate


def open_tiles(path: Path, vendor: str, size: Size, level_sizes: tuple[Size, ...]) -> TiffTiles | None:
    """The tiles of the slide at `path`, or None where OpenSlide must read it.

    `size` and `level_sizes` are what OpenSlide takes for level 0 and the levels. Raises SlideError where that is
    not the slide, or not as it is meant to be seen.
    """
    if vendor not in VENDORS:
        return None
    try:
        with tifffile.TiffFile(path) as file:
            file_pages = list_pages(path, file)
            check_samples(path, check_pictures(path, vendor, file_pages, size))
            for page in file_pages:
                if page.is_tiled and size_of(page) in level_sizes:
                    check_transparency(path, page)
            plain: list[Any] = [page for page in file_pages if is_plain(page)]
            pages = {(page.imagewidth, page.imagelength): page for page in plain}
            if len(pages) < len(plain) or not set(level_sizes) <= set(pages):
                return None  # of pages of one size OpenSlide knows which are levels
            chosen = [pages[size] for size in level_sizes]
            for page in chosen:
                _ = page.decode, page.jpegtables  # both are read from the file when first used
        return TiffTiles(path, chosen)
    except SlideError:
        raise
    except Exception:  # what a damaged file leads tifffile to; OpenSlide says whether it can be read at all
        return None


def is_plain(page: Any) -> bool:
    """Whether a TIFF page is 8-bit RGB in tiles, none missing, in a form known to decode as OpenSlide does."""
    if not page.is_tiled:
        return False
    tiles = -(-page.imagewidth // page.tilewidth) * -(-page.imagelength // page.tilelength)
    return (
        len(page.dataoffsets) == len(page.databytecounts) == tiles
        and page.dtype == np.uint8
        and page.samplesperpixel == 3
        and page.planarconfig == 1
        and page.compression in COMPRESSIONS
        and page.photometric in ((RGB, YCBCR) if page.compression == JPEG else (RGB,))
        and all(page.databytecounts)
    )
