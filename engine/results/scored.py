"""Finished results read back: what `glassrt score` left of a slide."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from glassrt.engine.errors import UsageError, first_line
from glassrt.engine.geometry.boxes import Size
from glassrt.engine.results.figures import Result
from glassrt.engine.results.origin import RESULT, read_stored

MAP, REGIONS = "map.ome.tif", "regions.geojson"


@dataclass(frozen=True)
class Scored:
    """A slide's folder of results; its name is the stem of the slide's."""

    folder: Path
    result: Result

    @property
    def map_size(self) -> Size:
        """Width and height of the map."""
        width, height = self.result.map["size"]
        return width, height

    @property
    def base_size(self) -> Size:
        """Width and height of the slide's level 0."""
        width, height = self.result.slide["size"]
        return width, height

    @property
    def origin(self) -> Size:
        """The level-0 pixel from which viewers count."""
        return self.result.frame[REGIONS].origin

    def read_plane(self, plane: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """(top, rows `[n, width]`) of a plane of the map, band by band from above: class numbers in plane 0, then
        round(255 p) of each class. Raises UsageError for a map that is damaged or not the result's.
        """
        path, (width, height) = self.folder / MAP, self.map_size
        try:
            with tifffile.TiffFile(path) as file:
                page = file.series[0].levels[0].pages[plane]
                if page is None or page.shape != (height, width) or page.dtype != np.uint8:
                    raise ValueError(f"no plane of {width} x {height} bytes")
                yield from join_tiles(page.aspage())
        except Exception as error:  # whatever a damaged file sets off in its decoders
            raise UsageError(f"{path} cannot be read ({first_line(error)}): score the slide again") from error


def join_tiles(page: tifffile.TiffPage) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(top, rows) of a tiled page, a row of tiles at a time."""
    height, width = page.shape
    at, rows = 0, np.zeros((min(page.tilelength, height), width), np.uint8)
    for tile, (_, _, top, left, _), _ in page.segments(maxworkers=1):
        if top != at:
            yield at, rows
            at, rows = top, np.zeros((min(page.tilelength, height - top), width), np.uint8)
        if tile is None:
            raise ValueError("a tile is missing")
        rows[:, left : left + page.tilewidth] = tile[0, : len(rows), : width - left, 0]
    yield at, rows


def read_scored(results: Path, names: Sequence[str]) -> Iterator[Scored]:
    """The results among those in the folder `results` of slides whose stems are `names`, as far as there are any.

    Raises UsageError for one that cannot be read.
    """
    for name in names:
        folder = results / name
        if not (folder / RESULT).is_file():
            continue
        result = read_stored(folder, Result)
        if result is None or not is_whole(result):
            raise UsageError(f"{folder / RESULT} is damaged or of another version of GlassRT: score the slide again")
        yield Scored(folder, result)


def is_whole(result: Result) -> bool:
    """Whether a result says all that is asked of one here."""
    sized = all({"size", "mpp"} <= each.keys() for each in (result.slide, result.map))
    scores, found = result.slide_scores, list(result.classes)[1:]
    return sized and REGIONS in result.frame and bool(found) and (scores is None or scores.of in found)
