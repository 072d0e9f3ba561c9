"""A faster way into tiled TIFF slides (SVS and plain): tiles decoded straight into place.

OpenSlide paints every tile through a drawing library, which takes longer than decoding it. Pixels are the
same to the bit, which opening checks on samples; what is not plainly tiled RGB stays with OpenSlide.
"""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from glassrt.engine.errors import SlideError, first_line
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.slides.slide import Pixels
from glassrt.engine.slides.tiff.jpeg import JPEG, decode_jpeg
from glassrt.engine.slides.tiff.kept import KEPT
from glassrt.engine.system import BINARY, read_at

SAMPLED_PIXELS = 2_000_000  # decoded for samples, beyond the first: what a few milliseconds allow


class TiffTiles:
    """The tiled levels of a TIFF file. Reading is thread-safe; `close` it."""

    def __init__(self, path: Path, pages: list[Any]) -> None:
        self._path, self._pages = path, pages
        self._descriptor = os.open(path, os.O_RDONLY | BINARY)
        self._bytes = os.fstat(self._descriptor).st_size

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """RGB `[height, width, 3]` of a region inside the level; SlideError where a tile is damaged."""
        tile_height, tile_width = self._pages[level].tile
        pixels = np.empty((height, width, 3), np.uint8)
        for row in range(y // tile_height, -(-(y + height) // tile_height)):
            for column in range(x // tile_width, -(-(x + width) // tile_width)):
                tile = KEPT.get(self, (level, row, column), partial(self._decode_tile, level, row, column))
                top, left = row * tile_height, column * tile_width
                first_y, first_x = max(y, top), max(x, left)
                part = tile[first_y - top : y + height - top, first_x - left : x + width - left]
                pixels[first_y - y : first_y - y + len(part), first_x - x : first_x - x + part.shape[1]] = part
        return pixels

    def samples(self, side: int) -> Iterator[tuple[int, Box]]:
        """(level, box) of pieces of at most `side` pixels that stand for all: one would be blank too often.

        Of each level the tile with most bytes, which shows most; of level 0 also the one in the middle and the last,
        which both borders cut. Fewer where tiles are large.
        """
        fullest = [
            (level, page.databytecounts.index(max(page.databytecounts))) for level, page in enumerate(self._pages)
        ]
        first = self._pages[0]
        columns, count = -(-first.imagewidth // first.tilewidth), len(first.databytecounts)
        middle = count // columns // 2 * columns + columns // 2
        decoded = 0
        for level, index in dict.fromkeys([*fullest, (0, middle), (0, count - 1)]):
            page = self._pages[level]
            decoded += page.tilewidth * page.tilelength
            if decoded <= SAMPLED_PIXELS or (level, index) == fullest[0]:
                yield level, middle_of(self._tile_box(page, index), side)

    def _tile_box(self, page: Any, index: int) -> Box:
        """The part of a tile that lies inside the picture."""
        row, column = divmod(index, -(-page.imagewidth // page.tilewidth))
        left, top = column * page.tilewidth, row * page.tilelength
        return Box(left, top, min(left + page.tilewidth, page.imagewidth), min(top + page.tilelength, page.imagelength))

    def _decode_tile(self, level: int, row: int, column: int) -> Pixels:
        """A tile, whole or cut to the picture where its border lies; SlideError for any other size."""
        page = self._pages[level]
        index = row * -(-page.imagewidth // page.tilewidth) + column
        box = self._tile_box(page, index)
        place = f"x {box.left}, y {box.top}" + (f" of level {level}" if level else "")
        content = self._read_bytes(page.dataoffsets[index], page.databytecounts[index], place)
        try:
            tile: Pixels = decode_jpeg(content, page) if page.compression == JPEG else page.decode(content, index)[0][0]
        except Exception as error:  # each codec has errors of its own
            raise SlideError(f"{self._path}: damaged at {place} ({first_line(error)}); copy the slide again") from error
        height, width = tile.shape[:2]
        if not (box.size[0] <= width <= page.tilewidth and box.size[1] <= height <= page.tilelength):
            raise SlideError(
                f"{self._path}: damaged at {place} (a tile of {width} x {height} pixels where {page.tilewidth} x "
                f"{page.tilelength} are declared); copy the slide again or convert it"
            )
        return tile

    def _read_bytes(self, offset: int, count: int, place: str) -> bytes:
        if offset + count > self._bytes:
            raise SlideError(f"{self._path}: damaged at {place} (the file ends before it); copy the slide again")
        try:
            content = read_at(self._descriptor, count, offset)
        except OSError as error:
            raise SlideError(
                f"{self._path}: reading failed at {place} ({error.strerror}); see to the disk or the network it is on"
            ) from error
        if len(content) < count:
            raise SlideError(f"{self._path}: damaged at {place} (the file ends before it); copy the slide again")
        return content

    def close(self) -> None:
        """Close the file; harmless when done twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        KEPT.forget(self)


def middle_of(box: Box, side: int) -> Box:
    """The piece in the middle of a box, at most `side` pixels wide and high."""
    width, height = (min(side, length) for length in box.size)
    left, top = box.left + (box.size[0] - width) // 2, box.top + (box.size[1] - height) // 2
    return Box(left, top, left + width, top + height)
