"""A slide resampled to any resolution, read region by region.

Frames: `level` is a stored pyramid level, `grid` the slide at the wanted mpp. A grid pixel's value depends on
its position alone, never on the region it was read with, so regions tile without seams.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from glassrt.engine.geometry.boxes import Box, Size
from glassrt.engine.geometry.views import shrink
from glassrt.engine.slides.resampling import Resampling, average_blocks, resample
from glassrt.engine.slides.slide import Pixels, Slide

FINER = 0.99  # of both sides of the grid: levels are read from down to this size
STRIP = 256  # grid rows of a strip, at least
SAME_MPP = 0.005  # relative; closer than any scanner's calibration


@dataclass(frozen=True)
class GridReader:
    """A slide resampled to `mpp`: the grid of `width` x `height` pixels, read region by region.

    Reads from the nearest finer level: averaged over whole blocks of level pixels, then bilinear with
    half-pixel centres. A slide already at `mpp` is read as it is. Regions must lie inside the grid. With a `factor` its
    pixels are so many times as large.
    """

    slide: Slide
    mpp: float
    factor: float = 1.0
    width: int = field(init=False)
    height: int = field(init=False)
    level: int = field(init=False)

    def __post_init__(self) -> None:
        base_width, base_height = self.slide.levels[0].size
        ratio = self.mpp / self.slide.mpp
        if abs(ratio - 1) < SAME_MPP:
            ratio = 1.0
        width, height = shrink(shrink((base_width, base_height), ratio), self.factor)
        finer = [
            index
            for index, (size, *_) in enumerate(self.slide.levels)
            if size[0] >= FINER * width and size[1] >= FINER * height
        ]
        object.__setattr__(self, "width", width)
        object.__setattr__(self, "height", height)
        object.__setattr__(self, "level", finer[-1] if finer else 0)

    @property
    def name(self) -> str:
        """The slide's."""
        return self.slide.name

    @property
    def base_size(self) -> Size:
        """Width and height of the slide's level 0."""
        return self.slide.levels[0].size

    def at(self, factor: float) -> "GridReader":
        """The same slide in pixels that are `factor` times as large as these."""
        return self if factor == 1 else GridReader(self.slide, self.mpp, self.factor * factor)

    def read(self, x: int, y: int, width: int, height: int) -> Pixels:
        """RGB `[height, width, 3]` of the region whose first grid pixel is (x, y); owned by the caller."""
        level_width, level_height = self.slide.levels[self.level].size
        across = Resampling(level_width, self.width)
        down = Resampling(level_height, self.height)
        pixels = np.empty((height, width, 3), np.uint8)
        for top, rows in split(height, down.longest_run):
            for left, columns in split(width, across.longest_run):
                block = self._read_block(across, down, x + left, y + top, columns, rows)
                pixels[top : top + rows, left : left + columns] = block
        return pixels

    def footprint(self, box: Box, alone: bool = False) -> Box:
        """The pixels of the level that are read for a box of the grid; `alone` those that its values depend on."""
        level_width, level_height = self.slide.levels[self.level].size
        sides = []
        for level_length, length, start, end in (
            (level_width, self.width, box.left, box.right),
            (level_height, self.height, box.top, box.bottom),
        ):
            axis = Resampling(level_length, length)
            first = start if alone else start - start % axis.patch
            sides.append((start, end) if axis.is_identity else axis.level_range(first, end))
        (left, right), (top, bottom) = sides
        return Box(left, top, right, bottom)

    def read_strips(self, threads: int) -> Iterator[Pixels]:
        """RGB `[rows, width, 3]` of the whole grid from top to bottom; no more than a strip a thread waits."""
        patch = Resampling(self.slide.levels[self.level].size[1], self.height).patch
        rows = -(-STRIP // patch) * patch  # on the lattice of patches, so that nothing is read twice
        waiting: deque[Future[Pixels]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            for top in range(0, self.height, rows):
                waiting.append(pool.submit(self.read, 0, top, self.width, min(rows, self.height - top)))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _read_block(self, across: "Resampling", down: "Resampling", x: int, y: int, width: int, height: int) -> Pixels:
        if across.is_identity and down.is_identity:
            return self.slide.read_level(self.level, (x, y), (width, height))
        # Patches lie on a fixed lattice of the grid, so that a pixel is rounded alike in every region.
        start_x, start_y = x - x % across.patch, y - y % down.patch
        first_x, last_x = across.level_range(start_x, x + width)
        first_y, last_y = down.level_range(start_y, y + height)
        block = self.slide.read_level(self.level, (first_x, first_y), (last_x - first_x, last_y - first_y))
        block = average_blocks(block, across.block, down.block)
        pixels = np.empty((y + height - start_y, x + width - start_x, 3), np.uint8)
        for top, rows in split(pixels.shape[0], down.patch):
            for left, columns in split(pixels.shape[1], across.patch):
                offset = across.offset(start_x + left, first_x), down.offset(start_y + top, first_y)
                patch = resample(block, (across.ratio, down.ratio), offset, (columns, rows))
                pixels[top : top + rows, left : left + columns] = patch
        return pixels[y - start_y :, x - start_x :]


def split(length: int, longest: int) -> list[tuple[int, int]]:
    """(start, count) of consecutive runs of at most `longest` that make up `length`."""
    return [(start, min(longest, length - start)) for start in range(0, length, longest)]
