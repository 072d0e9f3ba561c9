"""A faster way into tiled TIFF slides (SVS and plain): tiles decoded straight into place.

OpenSlide paints every tile through a drawing library, which takes longer than decoding it. Pixels are the
same to the bit, which opening checks on a tile; what is not plainly tiled RGB stays with OpenSlide.
"""

import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError

Pixels = NDArray[np.uint8]

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # else its warnings stand beside our one line

VENDORS = ("aperio", "generic-tiff")
CACHE_BYTES = 64_000_000  # of decoded tiles: neighbouring regions share those on their border
JPEG = 7
COMPRESSIONS = (1, 5, JPEG, 8)  # the others: none, LZW, deflate
YCBCR = 6
ADOBE_MARKER = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # and one byte: 0 for RGB, 1 for YCbCr


class TiffTiles:
    """The tiled levels of a TIFF file. Reading is thread-safe; `close` it."""

    def __init__(self, path: Path, pages: list[Any]) -> None:
        self._path, self._pages = path, pages
        tile_bytes = max(page.tilewidth * page.tilelength * 3 for page in pages)
        self._decode = lru_cache(max(1, CACHE_BYTES // tile_bytes))(self._decode_tile)
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """RGB `[height, width, 3]` of a region inside the level; SlideError where a tile is damaged."""
        tile_height, tile_width = self._pages[level].tile
        pixels = np.empty((height, width, 3), np.uint8)
        for row in range(y // tile_height, -(-(y + height) // tile_height)):
            for column in range(x // tile_width, -(-(x + width) // tile_width)):
                tile = self._decode(level, row, column)
                top, left = row * tile_height, column * tile_width
                first_y, first_x = max(y, top), max(x, left)
                part = tile[first_y - top : y + height - top, first_x - left : x + width - left]
                pixels[first_y - y : first_y - y + len(part), first_x - x : first_x - x + part.shape[1]] = part
        return pixels

    def _decode_tile(self, level: int, row: int, column: int) -> Pixels:
        page = self._pages[level]
        index = row * -(-page.imagewidth // page.tilewidth) + column
        content = os.pread(self._descriptor, page.databytecounts[index], page.dataoffsets[index])
        try:
            if page.compression == JPEG:
                return decode_jpeg(content, page)
            tile: Pixels = page.decode(content, index)[0][0]
        except Exception as error:  # each codec has errors of its own
            place = f"x {column * page.tilewidth}, y {row * page.tilelength}"
            raise SlideError(f"{self._path}: damaged at {place} ({error}); copy the slide again") from error
        return tile

    def close(self) -> None:
        """Close the file; harmless when done twice."""
        self._decode.cache_clear()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def decode_jpeg(content: bytes, page: Any) -> Pixels:
    """RGB of one JPEG tile; ValueError where it is damaged, which most decoders only warn of."""
    # Tiles leave out the tables, and the page, not the tile, says whether colours are RGB or YCbCr.
    marker = ADOBE_MARKER + bytes([page.photometric == YCBCR])
    whole = content[:2] + marker + (page.jpegtables or b"")[2:-2] + content[2:]
    tile: Pixels = simplejpeg.decode_jpeg(whole, "RGB", fastdct=False, fastupsample=False, strict=True)
    return tile


def open_tiles(path: Path, vendor: str, level_sizes: tuple[tuple[int, int], ...]) -> TiffTiles | None:
    """The tiles of the slide at `path`, or None where OpenSlide must read it."""
    if vendor not in VENDORS:
        return None
    try:
        with tifffile.TiffFile(path) as file:
            plain: list[Any] = [page for page in file.pages if is_plain(page)]
            pages = {(page.imagewidth, page.imagelength): page for page in plain}
            if len(pages) < len(plain) or not set(level_sizes) <= set(pages):
                return None  # pages of one size, such as focal planes, are OpenSlide's to choose from
            chosen = [pages[size] for size in level_sizes]
            for page in chosen:
                _ = page.decode, page.jpegtables  # both are read from the file when first used
        return TiffTiles(path, chosen)
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
        and all(page.databytecounts)
    )
