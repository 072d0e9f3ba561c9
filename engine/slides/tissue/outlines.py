"""Outlines of tissue in GeoJSON, as QuPath writes it, drawn as a mask."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError
from glassrt.engine.geometry.boxes import Size
from glassrt.engine.slides.tissue.masks import Mask
from glassrt.engine.slides.tissue.tissue import TISSUE_MPP

MOST_BYTES = 2**30  # of GeoJSON
DRAWN_PIXELS = 2**24  # of a mask: finer than `TISSUE_MPP` on most slides
OUTSIDE = 1.0  # level-0 pixels that outlines may lie beyond the border
SHIFT = 4  # binary digits of a pixel's fraction in OpenCV's drawing
IGNORED = "*"  # ends the names of classes that QuPath leaves out
CROSSED = 2**20  # borders of rows of pixels found at a time
Ring = NDArray[np.float64]


def draw(path: Path, shown: Size, mpp: float) -> Mask:
    """A mask from the polygons of a GeoJSON file: the pixels whose centres they hold, so that areas are right.

    Where they are so thin that they hold none, the pixels that they touch.
    """
    ratio = max(1.0, min(TISSUE_MPP / mpp, (shown[0] * shown[1] / DRAWN_PIXELS) ** 0.5))
    size = (max(1, round(shown[0] / ratio)), max(1, round(shown[1] / ratio)))
    mask = np.zeros((size[1], size[0]), np.uint8)
    scale = np.array([size[0] / shown[0], size[1] / shown[1]])
    content, ignored = read_json(path), set[str]()
    for mark in (fill, touch):
        for rings in find_polygons(content, path, ignored):
            check_place(np.concatenate(rings), shown, path)
            mark(mask, [ring * scale for ring in rings])
        if mask.any():
            return mask.view(np.bool_)
    if ignored:
        raise SlideError(
            f"{path}: marks no tissue: all that it holds is of classes that QuPath ignores, whose names end in "
            f"{IGNORED}; give the tissue another class"
        )
    raise SlideError(f"{path}: marks no tissue: it holds no polygon")


def check_place(corners: Ring, shown: Size, path: Path) -> None:
    """Raise SlideError for corners that lie outside the slide."""
    outside = (corners < -OUTSIDE) | (corners > (shown[0] + OUTSIDE, shown[1] + OUTSIDE))
    if outside.any():
        x, y = corners[outside.any(1)][0].tolist()
        raise SlideError(
            f"{path}: x {x:g}, y {y:g} lies outside the slide's {shown[0]} x {shown[1]} pixels: "
            "is it the mask of this slide, in pixels of its full resolution?"
        )


def frame(corners: Ring, mask: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of a mask that holds all corners."""
    height, width = mask.shape
    (low_x, low_y), (high_x, high_y) = corners.min(0).tolist(), corners.max(0).tolist()
    left, top = min(max(0, math.floor(low_x)), width - 1), min(max(0, math.floor(low_y)), height - 1)
    return left, top, min(max(left, math.ceil(high_x)) + 1, width), min(max(top, math.ceil(high_y)) + 1, height)


def fill(mask: NDArray[np.uint8], rings: list[Ring]) -> None:
    """Set the pixels whose centres lie in a polygon without its holes."""
    corners = np.concatenate(rings)
    left, top, right, bottom = frame(corners, mask)
    # Counted from pixels' centres, an edge crosses whole rows: in each, what lies right of it changes sides.
    x, y = (corners - (left + 0.5, top + 0.5)).T
    to_x, to_y = (np.concatenate([p for ring in rings for p in (ring[1:], ring[:1])]) - (left + 0.5, top + 0.5)).T
    first, end = (np.ceil(pick(y, to_y)).clip(0, bottom - top).astype(np.int64) for pick in (np.minimum, np.maximum))
    rows, across, down = end - first, to_x - x, to_y - y
    part = np.zeros((bottom - top, right - left + 1), np.uint8)
    at_once = max(1, CROSSED // max(1, int(rows.max())))
    for start in range(0, len(x), at_once):
        count = rows[start : start + at_once]
        edge = np.repeat(np.arange(start, start + len(count)), count)
        row = first[edge] + np.arange(len(edge)) - np.repeat(count.cumsum() - count, count)
        place = x[edge] + (row - y[edge]) * across[edge] / down[edge]
        np.bitwise_xor.at(part, (row, np.ceil(place).clip(0, right - left).astype(np.int64)), 1)
    mask[top:bottom, left:right] |= np.bitwise_xor.accumulate(part, axis=1)[:, :-1]


def touch(mask: NDArray[np.uint8], rings: list[Ring]) -> None:
    """Set the pixels that a polygon without its holes touches."""
    left, top, right, bottom = frame(np.concatenate(rings), mask)
    part = np.zeros((bottom - top, right - left), np.uint8)
    # OpenCV counts from pixels' centres.
    places = [np.rint((ring - (left + 0.5, top + 0.5)) * 2**SHIFT).astype(np.int32) for ring in rings]
    cv2.fillPoly(part, places, 1, shift=SHIFT)
    mask[top:bottom, left:right] |= part


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
