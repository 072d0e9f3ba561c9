"""Polygons of GeoJSON, as QuPath writes it: areas of tissue in level-0 pixels of what viewers show."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError

MOST_BYTES = 2**30  # of GeoJSON
IGNORED = "*"  # ends the names of classes that QuPath leaves out
Ring = NDArray[np.float64]


def read_json(path: Path) -> Any:
    """What a file of JSON holds."""
    if path.stat().st_size > MOST_BYTES:
        raise SlideError(f"{path}: too large for outlines of tissue; simplify them or save a mask image")
    try:
        return msgspec.json.decode(path.read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SlideError(f"{path}: not GeoJSON ({error})") from error


def find_polygons(content: Any, path: Path, ignored: set[str]) -> Iterator[list[Ring]]:
    """The rings of each polygon: its outline, then its holes. Names of classes that are left out come to `ignored`."""
    for geometry in find_geometries(content, path, ignored):
        polygons = geometry.get("coordinates")
        if geometry["type"] == "Polygon":
            polygons = [polygons]
        if not isinstance(polygons, list):
            raise SlideError(f"{path}: a {geometry['type']} without coordinates")
        for polygon in polygons:
            if not isinstance(polygon, list) or not polygon:
                raise SlideError(f"{path}: a polygon without rings")
            yield [read_ring(ring, path) for ring in polygon]


def find_geometries(content: Any, path: Path, ignored: set[str]) -> Iterator[dict[str, Any]]:
    """The areas of a FeatureCollection, a list of features, a feature or a geometry, but for ignored classes."""
    if isinstance(content, list):
        for each in content:
            yield from find_geometries(each, path, ignored)
        return
    kind = content.get("type") if isinstance(content, dict) else None
    if kind == "FeatureCollection" and isinstance(content.get("features"), list):
        yield from find_geometries(content["features"], path, ignored)
    elif kind == "GeometryCollection" and isinstance(content.get("geometries"), list):
        yield from find_geometries(content["geometries"], path, ignored)
    elif kind == "Feature" and (name := class_name(content)).endswith(IGNORED):
        ignored.add(name)
    elif kind == "Feature":
        yield from find_geometries(content.get("geometry"), path, ignored)
    elif kind in ("Polygon", "MultiPolygon"):
        yield content
    else:
        what = kind if isinstance(kind, str) else "something without a type"
        raise SlideError(f"{path}: holds {what}; areas of tissue are Polygon or MultiPolygon, as QuPath exports them")


def class_name(feature: dict[str, Any]) -> str:
    """What QuPath calls the class of a feature, and the last of its parts where it has several; empty without one."""
    properties = feature.get("properties")
    named = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(named, dict):
        named = named.get("names") or named.get("name")
    if isinstance(named, list) and named:
        named = named[-1]
    return named.strip() if isinstance(named, str) else ""


def read_ring(ring: Any, path: Path) -> Ring:
    """`[n, 2]` corners of a ring."""
    try:
        corners = np.array(ring, np.float64)
    except (TypeError, ValueError):
        corners = np.zeros(0)
    if corners.ndim != 2 or len(corners) < 3 or corners.shape[1] not in (2, 3) or not np.isfinite(corners).all():
        raise SlideError(f"{path}: a ring of a polygon is no list of at least three points [x, y]")
    return corners[:, :2]
