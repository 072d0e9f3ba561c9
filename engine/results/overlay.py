"""A slide's thumbnail with what was found on it."""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.parts import ClassInfo
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.maps.mapfile import NOT_ANALYSED, MapFile

TINT = 0.4
GREY = 190
BOX_COLOR = (90, 90, 90)


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
