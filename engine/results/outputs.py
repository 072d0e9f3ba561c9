"""Result files: pyramidal OME-TIFF, GeoJSON, overlay picture, JSON. Each is written to the path given."""

import math
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import tifffile
from numpy.typing import NDArray

from glassrt.engine.bundles.parts import ClassInfo
from glassrt.engine.files import readable_json
from glassrt.engine.geometry.boxes import Box, bands
from glassrt.engine.maps.mapfile import NOT_ANALYSED, MapFile
from glassrt.engine.maps.regions import Region, Ring

TIFF_TILE = 512
TIFF_BUFFER = 16_000_000  # bytes of tiles that wait for compression; tifffile's own choice is 256 MB
COMPRESSION_LEVEL = 4
REGION_NAMESPACE = uuid.UUID("6b1fc1f5-98a8-4ef6-93ab-9a6c8d8c9f0e")
TINT = 0.4
GREY = 190
BOX_COLOR = (90, 90, 90)


def write_map(
    path: Path, map_file: MapFile, classes: Sequence[ClassInfo], mpp: float, position_um: tuple[float, float] = (0, 0)
) -> None:
    """Write the map as a tiled, compressed, pyramidal OME-TIFF: class numbers, then a probability plane a class.

    `mpp` is the map's pixel size in micrometres, `position_um` the place of its corner in the frame that viewers
    show of the slide. Levels halve until one tile holds them, class numbers by the nearest pixel, probabilities
    by the mean.
    """
    with ExitStack() as stack:
        levels = [map_file]
        while max(levels[-1].height, levels[-1].width) > TIFF_TILE:
            finer = levels[-1]
            size = (-(-finer.height // 2), -(-finer.width // 2))
            coarser = MapFile(path.with_name(f"level{len(levels)}.raw"), finer.planes, *size)
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
        big = sum(level.planes * level.height * level.width for level in levels) > 2**31
        with tifffile.TiffWriter(path, bigtiff=big, ome=True) as file:
            for index, level in enumerate(levels):
                file.write(
                    read_tiles(level),
                    shape=(level.planes, level.height, level.width),
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
        rows = np.empty((finer.planes, bottom - top, coarser.width), np.uint8)
        end = min(2 * bottom, finer.height)
        rows[0] = finer.read(0, 2 * top, end)[::2, ::2]
        for plane in range(1, finer.planes):
            values = finer.read(plane, 2 * top, end)
            height, width = values.shape
            padded = cv2.copyMakeBorder(values, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
            rows[plane] = cv2.resize(padded, (coarser.width, bottom - top), interpolation=cv2.INTER_AREA)
        coarser.write_rows(top, rows)


def read_tiles(level: MapFile) -> Iterator[NDArray[np.uint8]]:
    """The tiles of a level in the order of a TIFF, plane by plane."""
    for plane in range(level.planes):
        for top, bottom in bands(level.height, TIFF_TILE):
            rows = level.read(plane, top, bottom)
            for left, right in bands(level.width, TIFF_TILE):
                yield rows[:, left:right]


def write_regions(
    path: Path,
    regions: Iterable[Region],
    classes: Sequence[ClassInfo],
    to_base: tuple[float, float],
    origin: tuple[int, int] = (0, 0),
) -> list[int]:
    """Write one GeoJSON polygon a region, in level-0 pixels, as QuPath imports it; returns regions per class.

    `to_base` is level-0 pixels per map pixel in x and y, `origin` the level-0 pixel from which viewers count.
    Regions are written one by one as they come.
    """
    counts = [0] * len(classes)
    with open(path, "wb") as file:
        file.write(b'{"type": "FeatureCollection", "features": [')
        for number, region in enumerate(regions):
            counts[region.class_index] += 1
            feature = describe_region(region, classes[region.class_index], to_base, origin, number)
            file.write((b",\n" if number else b"\n") + msgspec.json.encode(feature))
        file.write(b"\n]}\n")
    return counts


def describe_region(
    region: Region, info: ClassInfo, to_base: tuple[float, float], origin: tuple[int, int], number: int
) -> dict[str, Any]:
    """One GeoJSON feature with QuPath's properties."""
    first = region.rings[0][0].tolist()
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(REGION_NAMESPACE, f"{info.name} {number} {first}")),
        "geometry": {
            "type": "Polygon",
            "coordinates": [encode_ring(ring, to_base, origin) for ring in region.rings],
        },
        "properties": {
            "objectType": "annotation",
            "classification": {"name": info.name, "color": info.color},
            "measurements": {
                "Area um^2": round(region.area_um2, 3),
                "Mean probability": round(region.mean_probability, 4),
            },
        },
    }


def encode_ring(ring: Ring, to_base: tuple[float, float], origin: tuple[int, int]) -> msgspec.Raw:
    """The JSON of a ring, closed and in level-0 pixels from `origin`.

    As Python numbers it would take ten times the memory. A region's rings already run in the two directions of
    RFC 7946.
    """
    points = np.round(ring * to_base - origin, 2).tolist()
    return msgspec.Raw(msgspec.json.encode([*points, points[0]]))


def draw_overlay(thumbnail: NDArray[np.uint8], map_file: MapFile, classes: Sequence[ClassInfo]) -> NDArray[np.uint8]:
    """The thumbnail (RGB, of the whole slide) tinted and outlined by class, greyer where not analysed."""
    height, width = thumbnail.shape[:2]
    sampled = sample_classes(map_file, height, width)
    tints = np.zeros((256, 3), np.uint8)
    for index, info in enumerate(classes[1:], start=1):
        tints[index] = info.color
    tints[NOT_ANALYSED] = GREY
    colors = cv2.LUT(cv2.merge([sampled] * 3), tints[None])
    blended = cv2.addWeighted(thumbnail, 1 - TINT, colors, TINT, 0)
    picture = thumbnail.copy()
    cv2.copyTo(blended, sampled, picture)  # where the class is not 0
    for index, info in enumerate(classes[1:], start=1):
        mask = (sampled == index).view(np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, info.color, 2)
    draw_legend(picture, classes)
    return picture


def draw_box(picture: NDArray[np.uint8], box: Box, size: tuple[int, int]) -> None:
    """Outline a part of level 0, whose size is given, on a picture of the whole: what viewers show."""
    height, width = picture.shape[:2]
    across, down = width / size[0], height / size[1]
    corners = (
        (math.floor(box.left * across), math.floor(box.top * down)),
        (math.ceil(box.right * across) - 1, math.ceil(box.bottom * down) - 1),
    )
    cv2.rectangle(picture, *corners, BOX_COLOR, 1)


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write an RGB picture as PNG."""
    encoded, content = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert encoded
    path.write_bytes(content.tobytes())


def sample_classes(map_file: MapFile, height: int, width: int) -> NDArray[np.uint8]:
    """The class plane by nearest pixels at another size; only rows that are shown are read."""
    rows = ((np.arange(height) + 0.5) * map_file.height / height).astype(int)
    columns = ((np.arange(width) + 0.5) * map_file.width / width).astype(int)
    shown, index = np.unique(rows, return_inverse=True)
    sampled = np.stack([map_file.read(0, row, row + 1)[0, columns] for row in shown.tolist()])
    return sampled[index]


def draw_legend(picture: NDArray[np.uint8], classes: Sequence[ClassInfo]) -> None:
    """A swatch and a name for every class that is drawn, in the upper left corner."""
    for line, info in enumerate(classes[1:]):
        top = 10 + 24 * line
        cv2.rectangle(picture, (10, top), (28, top + 16), info.color, -1)
        position = (34, top + 14)
        cv2.putText(picture, info.name, position, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 3, cv2.LINE_AA)
        cv2.putText(picture, info.name, position, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)


def write_json(path: Path, content: Any) -> None:
    """Write a struct or plain values as indented JSON."""
    path.write_bytes(readable_json(content))
