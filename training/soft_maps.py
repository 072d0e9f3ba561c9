"""Soft maps: what teachers say of images and slides, stored to learn from.

A map is a zip file of compressed tiles beside a text `about.json`: written whole or not at all, read part by part, and
checked as it is read. Planes of uint8, `[planes, h, w]`: 255 where the teachers looked, 0 elsewhere; round(255 p) of
each of their planes of logits but the first, averaged; and round(255 d) of how far they disagree, the distance in total
variation between two of them on average.
"""

import errno
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import TrainingError, first_line
from glassrt.engine.files import replace_file
from glassrt.engine.geometry.boxes import Box, Size, bands
from glassrt.engine.maps.mapfile import NOT_ANALYSED, MapFile

TILE = 256
ABOUT = "about.json"
BESIDE = 2  # planes that are no probability: the first and the last
KEPT = 4096  # bytes of a map's file beside its tiles, about

DAMAGE = (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, RuntimeError)  # as zipfile tells of it

Planes = NDArray[np.uint8]


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a map's file says of it: how it was made, its width and height, its planes, and how many tiles it has."""

    made: str
    size: tuple[int, int]
    planes: int
    tiles: int


class SoftMap(NamedTuple):
    """A stored map."""

    path: Path
    about: About

    def read(self, box: Box) -> Planes:
        """`[planes, h, w]` of a box within the map. Raises TrainingError for a file that is damaged."""
        width, height = box.size
        found = np.zeros((self.about.planes, height, width), np.uint8)
        with reading(self.path) as file:
            held = {*file.namelist()}
            for row, column in product(tiles(box.top, box.bottom), tiles(box.left, box.right)):
                name, part = name_tile(row, column), self._tile_box(row, column)
                if name in held:
                    shape = (self.about.planes, *part.size[::-1])
                    tile = np.frombuffer(file.read(name), np.uint8).reshape(shape)
                    copy_shared(tile, part, found, box)
        return found

    def _tile_box(self, row: int, column: int) -> Box:
        width, height = self.about.size
        left, top = column * TILE, row * TILE
        return Box(left, top, min(left + TILE, width), min(top + TILE, height))


def tiles(start: int, end: int) -> range:
    """The numbers of the rows, or columns, of tiles between two pixels."""
    return range(start // TILE, -(-end // TILE))


def copy_shared(tile: Planes, part: Box, found: Planes, box: Box) -> None:
    """Copy what a tile that fills the box `part` has of another box."""
    left, top = max(part.left, box.left), max(part.top, box.top)
    right, bottom = min(part.right, box.right), min(part.bottom, box.bottom)
    found[:, top - box.top : bottom - box.top, left - box.left : right - box.left] = tile[
        :, top - part.top : bottom - part.top, left - part.left : right - part.left
    ]


@contextmanager
def reading(path: Path) -> Iterator[zipfile.ZipFile]:
    """The file of a map. Raises TrainingError for one that is missing or damaged, whenever that is noticed."""
    try:
        with zipfile.ZipFile(path) as file:
            if any(each.compress_type != zipfile.ZIP_DEFLATED for each in file.infolist()):
                raise zipfile.BadZipFile("Another compression than maps have")
            yield file
    except FileNotFoundError as error:
        raise TrainingError(f"{path} is missing: begin again, and the map is made anew") from error
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which is of a place before the file's begin
            raise TrainingError(f"{path} cannot be read ({error.strerror})") from error
        raise TrainingError(f"{path} is damaged ({first_line(error)}): delete it, and the map is made anew") from error


def open_map(path: Path) -> SoftMap:
    """The map in a file. Raises TrainingError."""
    with reading(path) as file:
        about = msgspec.json.decode(file.read(ABOUT), type=About)  # msgspec's errors are ValueErrors
        width, height = about.size
        names = {name_tile(*each) for each in product(tiles(0, height), tiles(0, width))}
        held = file.namelist()
        if len(held) != about.tiles + 1 or len({*held} & names) != about.tiles:
            raise ValueError("its tiles are not those that it should hold")
        return SoftMap(path, about)


def write_map(path: Path, made: str, said: Sequence[MapFile]) -> None:
    """Store what teachers said of one image or slide, each in a map file of the same size and classes.

    Raises OutputError.
    """
    first = said[0]
    planes = first.planes - 1 + BESIDE
    held = 0
    with replace_file(path) as beside, zipfile.ZipFile(beside, "w") as file:
        for row, (top, bottom) in enumerate(bands(first.height, TILE)):
            rows = join([read_rows(each, top, bottom) for each in said])
            for column, (left, right) in enumerate(bands(first.width, TILE)):
                if rows[0, :, left:right].any():
                    store(file, name_tile(row, column), rows[:, :, left:right].tobytes())
                    held += 1
        store(file, ABOUT, msgspec.json.encode(About(made, (first.width, first.height), planes, held)))


def store(file: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a part, compressed, without the time: a map that is made anew is the same to the byte."""
    file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


def name_tile(row: int, column: int) -> str:
    """What a tile is called in its file."""
    return f"{row}-{column}"


def read_rows(map_file: MapFile, top: int, bottom: int) -> Planes:
    """Some rows of a map file, class numbers and then probabilities as a network's planes of logits tell them: what of
    a class lies at its contour is not in its own plane, too.
    """
    rows = np.stack([map_file.read(plane, top, bottom) for plane in range(map_file.planes)])
    if map_file.contour_of:
        rows[map_file.contour_of] -= np.minimum(rows[map_file.contour_of], rows[-1])
    return rows


def join(said: Sequence[Planes]) -> Planes:
    """What several teachers say, as `read_rows` gives it, in the planes of a soft map."""
    looked = np.logical_and.reduce([each[0] != NOT_ANALYSED for each in said])
    mean = np.mean([each[1:] for each in said], axis=0, dtype=np.float32)
    rounded = np.rint(np.concatenate([mean, disagreement(said)[None]])).astype(np.uint8)
    return np.concatenate([np.where(looked, 255, 0)[None].astype(np.uint8), np.where(looked, rounded, 0)])


def disagreement(said: Sequence[Planes]) -> NDArray[np.float32]:
    """255 times the mean distance in total variation between two teachers; 0 for one alone."""
    pairs = list(combinations([each[1:].astype(np.int16) for each in said], 2))
    total = np.zeros(said[0].shape[1:], np.float32)
    for one, other in pairs:
        apart = one - other
        total += np.abs(apart).sum(axis=0) + np.abs(apart.sum(axis=0))
    return np.minimum(total / (2 * max(1, len(pairs))), 255)  # planes that are rounded may add to 256


def raw_size(size: Size, planes: int) -> int:
    """Bytes of the map of so many planes of logits before it is compressed."""
    return size[0] * size[1] * (planes - 1 + BESIDE) + KEPT
