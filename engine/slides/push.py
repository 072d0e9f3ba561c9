"""A slide whose tiles are handed in while it is scanned, in any order and from several threads."""

import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError
from glassrt.engine.geometry.boxes import Box, Size
from glassrt.engine.slides.handed import LARGEST_TILE, Order, Tables, Tile, check_numbers, inside, meet, open_tile
from glassrt.engine.slides.resolution import PLAUSIBLE_MPP
from glassrt.engine.slides.slide import Overview, Pixels, lay_levels
from glassrt.engine.slides.tiff.samples import RGB, YCBCR

__all__ = ["PushSlide", "Tile"]

MOST_PIXELS = 4 * 10**10  # of level 0: 100 x 100 mm at half a micrometre
MISSING, PARTLY, WHOLE, GONE = range(4)  # of a block


class Block(NamedTuple):
    """Pixels of one place of the lattice of tiles, and which of them have come."""

    pixels: Pixels
    seen: NDArray[np.bool_]


class PushSlide:
    """A pyramid of RGB images that is filled by `push`.

    A pixel that comes twice stays what it was first. What lies beyond the level is cut off; a tile without any pixel
    of it is refused. Transparent pixels are white, as in files. Pixels that never came are white where `fill` was
    called, else reading them is an error.
    """

    def __init__(
        self,
        levels: Sequence[Size],
        mpp: float,
        tile_size: int | Size,
        name: str = "scan",
        bounds: Box | None = None,
        jpeg_tables: bytes = b"",
        photometric: Literal["ycbcr", "rgb"] = "ycbcr",
    ) -> None:
        """`levels` are (width, height), the largest first, `mpp` micrometres per pixel of it, `tile_size` (width,
        height) of the lattice that most tiles lie on. Encoded tiles without tables of their own need `jpeg_tables`.

        Raises SlideError.
        """
        tile = (tile_size, tile_size) if isinstance(tile_size, int) else tile_size
        check_shape(levels, mpp, tile, name)
        check_bounds(bounds, levels[0], name)
        self.name, self.source = name, "scanner"
        self.path: Path | str | None = None
        self.mpp, self.bounds, self.tile = mpp, bounds, tile
        self.levels = lay_levels(list(levels), [tile] * len(levels))
        self._tables = Tables(jpeg_tables, YCBCR if photometric == "ycbcr" else RGB)
        self._lock = threading.Lock()
        self._blocks: dict[tuple[int, int, int], Block | Pixels] = {}  # those that are whole as pixels alone
        self._state = [np.zeros(self.lattice(level), np.uint8) for level in range(len(levels))]
        self._uses: dict[int, NDArray[np.int64]] | None = None
        self._on_whole: Callable[[int, int, float], None] = lambda row, column, arrived: None
        self._white = False
        self._hand_in: Callable[[Tile, float | None], None] | None = None

    def lattice(self, level: int) -> tuple[int, int]:
        """Rows and columns of a level's blocks."""
        width, height = self.levels[level].size
        return -(-height // self.tile[1]), -(-width // self.tile[0])

    def block_box(self, level: int, row: int, column: int) -> Box:
        """The pixels of a block."""
        width, height = self.levels[level].size
        left, top = column * self.tile[0], row * self.tile[1]
        return Box(left, top, min(left + self.tile[0], width), min(top + self.tile[1], height))

    def blocks_under(self, box: Box) -> tuple[range, range]:
        """Rows and columns of the blocks that a box of a level touches."""
        rows = range(box.top // self.tile[1], -(-box.bottom // self.tile[1]))
        return rows, range(box.left // self.tile[0], -(-box.right // self.tile[0]))

    def hand_to(self, hand_in: Callable[[Tile, float | None], None]) -> None:
        """Let tiles that are pushed go through this, with how long they may wait, which may `put` them here."""
        self._hand_in = hand_in

    def keep(self, level: int, uses: NDArray[np.int64], on_whole: Callable[[int, int, float], None]) -> None:
        """Keep of a level alone blocks that are yet to be used, `[rows, columns]` times each; the others never.

        `on_whole` is called with row and column when the last pixel of one has come, and when that had arrived, by the
        thread that pushed it. Call this before the first tile.
        """
        self._uses, self._on_whole = {level: uses.copy()}, on_whole

    def release(self, level: int, box: Box) -> None:
        """The blocks under a box have been used once more."""
        assert self._uses is not None
        rows, columns = self.blocks_under(box)
        with self._lock:
            for row in rows:
                for column in columns:
                    self._uses[level][row, column] -= 1
                    if not self._uses[level][row, column]:
                        self._blocks.pop((level, row, column), None)
                        self._state[level][row, column] = GONE

    def push(
        self, level: int, x: int, y: int, tile: NDArray[np.uint8] | bytes, order: Order = "rgb",
        timeout_s: float | None = None,
    ) -> None:  # fmt: skip
        """Take a tile whose first pixel is (x, y) of a level: raw `[h, w, 3 or 4]` in an `order`, or JPEG or JPEG 2000
        as it stands in a file.

        Where a session scores the slide, as `ScanSession.push`. Raises SlideError for what is no tile, or lies beside
        the level.
        """
        handed = Tile(level, x, y, tile, order)
        if self._hand_in is None:
            self.put(handed, time.perf_counter())
        else:
            self._hand_in(handed, timeout_s)

    def put(self, tile: Tile, arrived: float) -> None:
        """Take a tile that `arrived` then, in seconds of `time.perf_counter`. As `push`, whoever scores the slide."""
        check_numbers(tile, self.name)
        if not 0 <= tile.level < len(self.levels):
            raise SlideError(f"{self.name}: no level {tile.level}: it has {len(self.levels)}")
        box, pixels = open_tile(tile, self.levels[tile.level].size, self._tables, self.name)
        for row, column in self._wanted(tile.level, box):
            if self._paste(tile.level, row, column, pixels(), box):
                self._on_whole(row, column, arrived)

    def has(self, level: int, box: Box) -> bool:
        """Whether every pixel of a box has come and is still kept."""
        rows, columns = self.blocks_under(box)
        for row in rows:
            for column in columns:
                if self._state[level][row, column] == PARTLY:
                    block, place = self._blocks.get((level, row, column)), self.block_box(level, row, column)
                    inner = meet(place, box)
                    if not isinstance(block, Block) or not inside(block.seen, place, inner).all():
                        return False
                elif self._state[level][row, column] != WHOLE:
                    return False
        return True

    def fill(self) -> None:
        """From here on pixels that never came are read as white."""
        self._white = True

    def read_level(self, level: int, level_xy: tuple[int, int], size: Size) -> Pixels:
        """As `Slide.read_level`. Raises SlideError for pixels that have not come, or are kept no more."""
        box = Box(*level_xy, level_xy[0] + size[0], level_xy[1] + size[1])
        if not self._white and not self.has(level, box):
            raise SlideError(f"{self.name}: not all of x {box.left}, y {box.top} of level {level} has been scanned")
        pixels = np.full((size[1], size[0], 3), 255, np.uint8)
        rows, columns = self.blocks_under(box)
        for row in rows:
            for column in columns:
                place = self.block_box(level, row, column)
                inner = meet(place, box)
                block = self._blocks.get((level, row, column))
                if isinstance(block, Block):
                    seen = inside(block.seen, place, inner)
                    inside(pixels, box, inner)[seen] = inside(block.pixels, place, inner)[seen]
                elif block is not None:
                    inside(pixels, box, inner)[:] = inside(block, place, inner)
        return pixels

    def list_partly(self, level: int) -> list[tuple[int, int]]:
        """Rows and columns of the blocks of which some pixels have come."""
        rows, columns = np.nonzero(self._state[level] == PARTLY)
        return list(zip(rows.tolist(), columns.tolist(), strict=True))

    def look(self, level: int, row: int, column: int) -> Pixels:
        """The pixels of a block that is whole and kept, which are not to be changed."""
        block = self._blocks[level, row, column]
        assert not isinstance(block, Block)
        return block

    def overview(self) -> Overview | None:
        """None: whoever has one gives it to the session."""
        return None

    def close(self) -> None:
        """Forget all pixels; harmless when done twice."""
        with self._lock:
            self._blocks.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _wanted(self, level: int, box: Box) -> list[tuple[int, int]]:
        """The blocks that a tile has pixels for that are waited for."""
        uses = None if self._uses is None else self._uses.get(level)
        if self._uses is not None and uses is None:
            return []
        rows, columns = self.blocks_under(box)
        return [
            (row, column)
            for row in rows
            for column in columns
            if self._state[level][row, column] <= PARTLY and (uses is None or uses[row, column])
        ]

    def _paste(self, level: int, row: int, column: int, pixels: Pixels, box: Box) -> bool:
        """Put what a tile has for a block into it; whether it is whole now."""
        place = self.block_box(level, row, column)
        inner, key = meet(place, box), (level, row, column)
        part = inside(pixels, box, inner)
        alone = np.ascontiguousarray(part) if inner == place else None
        if alone is not None and np.may_share_memory(alone, pixels):
            alone = alone.copy()
        with self._lock:
            if self._state[level][row, column] > PARTLY:
                return False
            if alone is not None and self._state[level][row, column] == MISSING:
                self._blocks[key] = alone
            else:
                block = self._blocks.get(key)
                if not isinstance(block, Block):
                    width, height = place.size
                    block = Block(np.empty((height, width, 3), np.uint8), np.zeros((height, width), np.bool_))
                    self._blocks[key] = block
                fresh = ~inside(block.seen, place, inner)
                inside(block.pixels, place, inner)[fresh] = part[fresh]
                inside(block.seen, place, inner)[:] = True
                self._state[level][row, column] = PARTLY
                if not block.seen.all():
                    return False
                self._blocks[key] = block.pixels
            self._state[level][row, column] = WHOLE
            return True


def check_shape(levels: Sequence[Size], mpp: float, tile: Size, name: str) -> None:
    """Raise SlideError for what no scanner makes."""
    smaller = (one >= two for size, next_size in pairwise(levels) for one, two in zip(size, next_size, strict=True))
    if not levels or min(map(min, levels)) < 1 or not all(smaller):
        raise SlideError(f"{name}: levels {[*levels]}: expected widths and heights in pixels, the largest first")
    width, height = levels[0]
    if width * height > MOST_PIXELS:
        raise SlideError(f"{name}: {width} x {height} pixels: {MOST_PIXELS:.0e} are the most of a slide")
    if not PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]:
        raise SlideError(f"{name}: {mpp:g} micrometres per pixel: expected {PLAUSIBLE_MPP[0]} to {PLAUSIBLE_MPP[1]}")
    if not 16 <= min(tile) <= max(tile) <= LARGEST_TILE:
        raise SlideError(f"{name}: tiles of {tile[0]} x {tile[1]} pixels: expected 16 to {LARGEST_TILE} a side")


def check_bounds(bounds: Box | None, size: Size, name: str) -> None:
    """Raise SlideError for a scanned part that is none of level 0."""
    if bounds is None:
        return
    if not (0 <= bounds.left < bounds.right <= size[0] and 0 <= bounds.top < bounds.bottom <= size[1]):
        raise SlideError(f"{name}: the scanned part {bounds} does not lie within {size[0]} x {size[1]} pixels")
