"""Regions as GeoJSON, as QuPath imports it, written to the path given."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from glassrt.engine.bundles.parts import ClassInfo
from glassrt.engine.maps.regions import Region
from glassrt.engine.maps.rings import Ring

REGION_NAMESPACE = uuid.UUID("6b1fc1f5-98a8-4ef6-93ab-9a6c8d8c9f0e")


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

    def describe() -> Iterator[dict[str, Any]]:
        for number, region in enumerate(regions):
            counts[region.class_index] += 1
            yield describe_region(region, classes[region.class_index], to_base, origin, number)

    write_features(path, describe())
    return counts


def write_shapes(
    path: Path, shapes: Iterable[tuple[int, list[float], dict[str, Any]]], classes: Sequence[ClassInfo]
) -> list[int]:
    """The same of shapes that were described before, with their classes and first corners."""
    counts = [0] * len(classes)

    def describe() -> Iterator[dict[str, Any]]:
        for number, (class_index, first, shape) in enumerate(shapes):
            counts[class_index] += 1
            yield {"type": "Feature", "id": name_region(classes[class_index], number, first), **shape}

    write_features(path, describe())
    return counts


def write_features(path: Path, features: Iterable[dict[str, Any]]) -> None:
    """Write GeoJSON features one by one as they come."""
    with open(path, "wb") as file:
        file.write(b'{"type": "FeatureCollection", "features": [')
        for number, feature in enumerate(features):
            file.write((b",\n" if number else b"\n") + msgspec.json.encode(feature))
        file.write(b"\n]}\n")


def describe_region(
    region: Region, info: ClassInfo, to_base: tuple[float, float], origin: tuple[int, int], number: int
) -> dict[str, Any]:
    """One GeoJSON feature with QuPath's properties."""
    shape = describe_shape(region, info, to_base, origin)
    return {"type": "Feature", "id": name_region(info, number, region.rings[0][0].tolist()), **shape}


def name_region(info: ClassInfo, number: int, first: list[float]) -> str:
    """The id of a region: it follows from its place among the others, and its first corner."""
    return str(uuid.uuid5(REGION_NAMESPACE, f"{info.name} {number} {first}"))


def describe_shape(
    region: Region, info: ClassInfo, to_base: tuple[float, float], origin: tuple[int, int]
) -> dict[str, Any]:
    """What a feature says of its region, without type and id."""
    return {
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
