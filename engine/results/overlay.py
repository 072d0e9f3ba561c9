"""A slide's thumbnail with what was found on it."""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.kinds.segmentation import Segmentation
from glassrt.engine.bundles.parts import ClassInfo
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.maps.mapfile import NOT_ANALYSED, MapFile

TINT = 0.4
GREY = 190
BOX_COLOR = (90, 90, 90)
HEAT_TINT = 0.6
OPAQUE_AT = 0.5  # probability from which heat has its full tint; below, it fades
BAR = (10, 10, 128, 12)  # left, top, width and height of the scale of colours


def draw_picture(thumbnail: NDArray[np.uint8], map_file: MapFile, manifest: Segmentation) -> NDArray[np.uint8]:
    """The thumbnail (RGB, of the whole slide) with what the bundle's `overlay` asks to see on it."""
    if manifest.overlay == "heat":
        return draw_heat(thumbnail, map_file, manifest.suspected, manifest.classes[manifest.suspected].name)
    return draw_overlay(thumbnail, map_file, manifest.classes)


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


def draw_heat(thumbnail: NDArray[np.uint8], map_file: MapFile, number: int, name: str) -> NDArray[np.uint8]:
    """The thumbnail (RGB, of the whole slide) under the probability of class `number`, from clear over blue to red,
    greyer where not analysed.

    A pixel shows the highest probability within it: on a large slide the mean would hide what is small.
    """
    height, width = thumbnail.shape[:2]
    probability = sample_highest(map_file, number, height, width)
    skipped = (sample_classes(map_file, height, width) == NOT_ANALYSED).view(np.uint8)
    return tint_heat(thumbnail, probability, skipped, name)


def tint_heat(
    thumbnail: NDArray[np.uint8], values: NDArray[np.uint8], skipped: NDArray[np.uint8], name: str
) -> NDArray[np.uint8]:
    """The thumbnail under values in 255ths, which are called `name`, and grey where it was `skipped` (not 0)."""
    colors, weights = heat_scale()
    tint = cv2.LUT(cv2.merge([values] * 3), colors[None])
    cv2.copyTo(np.full_like(tint, GREY), skipped, tint)
    weight = cv2.LUT(values, weights)
    cv2.copyTo(np.full_like(weight, TINT), skipped, weight)
    picture = cv2.blendLinear(thumbnail, tint, 1 - weight, weight).astype(np.uint8, copy=False)
    draw_scale(picture, name)
    return picture


def heat_scale() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The RGB colour `[256, 3]` of each probability in 255ths, and its share `[256]` where it lies on a picture."""
    steps = np.arange(256, dtype=np.uint8)
    colors = cv2.applyColorMap(steps[:, None], cv2.COLORMAP_JET)[:, 0, ::-1]
    weights = HEAT_TINT * np.minimum(1, steps / 255 / OPAQUE_AT)
    return np.ascontiguousarray(colors), weights.astype(np.float32)


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


def sample_highest(map_file: MapFile, plane: int, height: int, width: int) -> NDArray[np.uint8]:
    """A plane at another size: the highest value within each pixel, or the nearest."""
    rows = (np.arange(height) * map_file.height // height).tolist()
    columns = np.arange(width) * map_file.width // width
    sampled = np.empty((height, width), np.uint8)
    for index, (top, bottom) in enumerate(zip(rows, [*rows[1:], map_file.height], strict=True)):
        band = map_file.read(plane, top, max(bottom, top + 1)).max(axis=0)
        sampled[index] = np.maximum.reduceat(band, columns)
    return sampled


def draw_scale(picture: NDArray[np.uint8], name: str) -> None:
    """The colours of probabilities from 0 to 1 as they look on white, and of which class, in the upper left corner."""
    left, top, width, height = BAR
    colors, weights = heat_scale()
    shown = 255 + (colors.astype(np.float32) - 255) * weights[:, None]
    part = picture[top : top + height, left : left + width]
    part[:] = shown[np.arange(width) * 255 // (width - 1)][: part.shape[1]]
    cv2.rectangle(picture, (left - 1, top - 1), (left + width, top + height), BOX_COLOR, 1)
    below = top + height + 16
    write_text(picture, "0", (left - 1, below))
    write_text(picture, "1", (left + width - 8, below))
    write_text(picture, name, (left + width + 8, top + height))


def draw_legend(picture: NDArray[np.uint8], classes: Sequence[ClassInfo]) -> None:
    """A swatch and a name for every class that is drawn, in the upper left corner."""
    for line, info in enumerate(classes[1:]):
        top = 10 + 24 * line
        cv2.rectangle(picture, (10, top), (28, top + 16), info.color, -1)
        write_text(picture, info.name, (34, top + 14))


def write_text(picture: NDArray[np.uint8], text: str, position: tuple[int, int]) -> None:
    """Black letters with a white rim, readable on anything; `position` is their lower left corner."""
    cv2.putText(picture, text, position, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 3, cv2.LINE_AA)
    cv2.putText(picture, text, position, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
