"""Made slides of any size from real tissue: GlaS images tiled into a pyramidal TIFF that OpenSlide reads."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from glassrt.training.datasets import glas
from glassrt.training.datasets.mosaic import encode

TILE = 512
GLASS = 240  # grey value outside tissue


class Mosaic:
    """A square slide of `side` pixels at GlaS resolution; a centred square of tissue covers `tissue` of it."""

    def __init__(self, data: Path, side: int, tissue: float) -> None:
        images = [image.pixels() for image in glas.find_images(data, "train")]
        self._images = [image[:TILE, :TILE] for image in images if min(image.shape[:2]) >= TILE]
        self.side, self._tiles = side, -(-side // TILE)
        margin = (1 - tissue**0.5) / 2
        self._tissue = range(round(margin * self._tiles), round((1 - margin) * self._tiles))
        self._glass = np.full((TILE, TILE, 3), GLASS, np.uint8)
        # One level's tiles are asked for in rows, each from two rows of the level above.
        self.tile = lru_cache(maxsize=8 * self._tiles)(self._make_tile)
        self._encode = lru_cache(maxsize=4 * len(self._images))(self._encode_base)

    def _make_tile(self, level: int, row: int, column: int) -> NDArray[np.uint8]:
        """RGB `[512, 512, 3]` of one tile; each level halves the one before."""
        if level == 0:
            if row in self._tissue and column in self._tissue:
                return self._images[self._number(row, column)]
            return self._glass
        above = [[self.tile(level - 1, 2 * row + y, 2 * column + x) for x in (0, 1)] for y in (0, 1)]
        if all(tile is self._glass for tiles in above for tile in tiles):
            return self._glass
        joined = np.concatenate([np.concatenate(tiles, axis=1) for tiles in above])
        return cv2.resize(joined, (TILE, TILE), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)

    def _number(self, row: int, column: int) -> int:
        return (row * 7 + column * 3) % len(self._images)

    def _encode_base(self, number: int) -> bytes:
        return encode(self._images[number] if number >= 0 else self._glass)

    def _encoded(self, level: int) -> Iterator[bytes]:
        count = -(-self._tiles >> level) if level == 0 else -(-self._tiles // 2**level)
        for row in range(count):
            for column in range(count):
                if level:
                    tile = self.tile(level, row, column)
                    yield self._encode(-1) if tile is self._glass else encode(tile)
                else:
                    inside = row in self._tissue and column in self._tissue
                    yield self._encode(self._number(row, column) if inside else -1)

    def write(self, path: Path) -> None:
        """Write the slide with levels halved until they fit into two tiles."""
        levels = max(1, int(np.log2(self.side / TILE)))
        with tifffile.TiffWriter(path, bigtiff=True) as file:
            for level in range(levels):
                side = -(-self.side // 2**level)
                per_cm = 10000 / glas.MPP / 2**level
                file.write(
                    self._encoded(level),
                    shape=(side, side, 3),
                    dtype=np.uint8,
                    tile=(TILE, TILE),
                    photometric="ycbcr",
                    subsampling=(1, 1),
                    compression="jpeg",
                    resolution=(per_cm, per_cm),
                    resolutionunit="CENTIMETER",
                    subfiletype=int(level > 0),
                    metadata=None,
                )
