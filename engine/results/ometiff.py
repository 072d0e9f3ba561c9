"""The map as a pyramidal OME-TIFF, written to the path given."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from glassrt.engine.bundles.parts import ClassInfo
from glassrt.engine.geometry.boxes import bands
from glassrt.engine.maps.mapfile import MapFile

TIFF_TILE = 512
TIFF_BUFFER = 16_000_000  # bytes of tiles that wait for compression; tifffile's own choice is 256 MB
COMPRESSION_LEVEL, ADOBE_DEFLATE = 4, 8


Encoded = Callable[[int, int, int], bytes]  # of plane, row and column of a tile of the map


def write_map(
    path: Path,
    map_file: MapFile,
    classes: Sequence[ClassInfo],
    mpp: float,
    position_um: tuple[float, float] = (0, 0),
    encoded: Encoded | None = None,
) -> None:
    """Write the map as a tiled, compressed, pyramidal OME-TIFF: class numbers, then a probability plane a class.

    `mpp` is the map's pixel size in micrometres, `position_um` the place of its corner in the frame that viewers
    show of the slide. Levels halve until one tile holds them, class numbers by the nearest pixel, probabilities
    by the mean. Tiles of the map itself are `encoded` already (`encode_tile`), if that is given.
    """
    with ExitStack() as stack:
        levels = [map_file]
        while max(levels[-1].height, levels[-1].width) > TIFF_TILE:
            finer = levels[-1]
            size = (-(-finer.height // 2), -(-finer.width // 2))
            coarser = MapFile(path.with_name(f"level{len(levels)}.raw"), finer.classes, *size)
            stack.enter_context(coarser)
            halve(finer, coarser)
            levels.append(coarser)
        names = ["class", *(f"p({info.name})" for info in classes[1:])]
        metadata: dict[str, Any] = {
            "axes": "CYX",
            "Channel": {"Name": names},
            "PhysicalSizeX": mpp,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": mpp,
            "PhysicalSizeYUnit": "µm",
        }
        if any(position_um):
            metadata["Plane"] = place_planes(len(names), position_um)
        metadata["UUID"] = f"urn:uuid:{name_content(map_file, metadata)}"
        big = sum(level.classes * level.height * level.width for level in levels) > 2**31
        with tifffile.TiffWriter(path, bigtiff=big, ome=True) as file:
            for index, level in enumerate(levels):
                file.write(
                    read_tiles(level) if index or encoded is None else list_encoded(level, encoded),
                    shape=(level.classes, level.height, level.width),
                    dtype=np.uint8,
                    tile=(TIFF_TILE, TIFF_TILE),
                    photometric="minisblack",
                    compression="adobe_deflate",
                    compressionargs={"level": COMPRESSION_LEVEL},
                    maxworkers=2,
                    buffersize=TIFF_BUFFER,
                    subifds=len(levels) - 1 if index == 0 else None,
                    subfiletype=int(index > 0),
                    resolution=(10000 / mpp / 2**index, 10000 / mpp / 2**index),
                    resolutionunit="CENTIMETER",
                    metadata=metadata if index == 0 else None,
                )


def name_content(map_file: MapFile, metadata: dict[str, Any]) -> UUID:
    """A UUID that follows from what the map holds: the same map is the same file, byte for byte."""
    content = hashlib.blake2b(repr(metadata).encode(), digest_size=16)
    for plane in range(map_file.classes):
        for top, bottom in bands(map_file.height, TIFF_TILE):
            content.update(np.ascontiguousarray(map_file.read(plane, top, bottom)).data)
    return UUID(bytes=content.digest(), version=5)


def place_planes(planes: int, position_um: tuple[float, float]) -> dict[str, list[Any]]:
    """OME metadata that puts every plane's corner at a position."""
    return {
        "PositionX": [position_um[0]] * planes,
        "PositionXUnit": ["µm"] * planes,
        "PositionY": [position_um[1]] * planes,
        "PositionYUnit": ["µm"] * planes,
    }


def halve(finer: MapFile, coarser: MapFile) -> None:
    """Fill `coarser` from every second class pixel and the means of 2x2 probabilities."""
    for top, bottom in bands(coarser.height, TIFF_TILE):
        rows = np.empty((finer.classes, bottom - top, coarser.width), np.uint8)
        end = min(2 * bottom, finer.height)
        rows[0] = finer.read(0, 2 * top, end)[::2, ::2]
        for plane in range(1, finer.classes):
            values = finer.read(plane, 2 * top, end)
            height, width = values.shape
            padded = cv2.copyMakeBorder(values, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
            rows[plane] = cv2.resize(padded, (coarser.width, bottom - top), interpolation=cv2.INTER_AREA)
        coarser.write_rows(top, rows)


def encode_tile(tile: NDArray[np.uint8]) -> bytes:
    """A tile `[h, w]` of one plane as the file holds it."""
    whole = np.zeros((TIFF_TILE, TIFF_TILE), np.uint8)
    whole[: tile.shape[0], : tile.shape[1]] = tile
    return bytes(tifffile.TIFF.COMPRESSORS[ADOBE_DEFLATE](whole, level=COMPRESSION_LEVEL))


def list_encoded(level: MapFile, encoded: Encoded) -> Iterator[bytes]:
    """The encoded tiles in the order of a TIFF."""
    rows, columns = -(-level.height // TIFF_TILE), -(-level.width // TIFF_TILE)
    return (
        encoded(plane, row, column)
        for plane in range(level.classes)
        for row in range(rows)
        for column in range(columns)
    )


def read_tiles(level: MapFile) -> Iterator[NDArray[np.uint8]]:
    """The tiles of a level in the order of a TIFF, plane by plane."""
    for plane in range(level.classes):
        for top, bottom in bands(level.height, TIFF_TILE):
            rows = level.read(plane, top, bottom)
            for left, right in bands(level.width, TIFF_TILE):
                yield rows[:, left:right]
