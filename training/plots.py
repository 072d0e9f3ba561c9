"""Curves as pictures, drawn without a plotting library: training needs none otherwise."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.files import prepare_folder, replace_file
from glassrt.engine.results.overlay import write_png

Floats = NDArray[np.float64]
Curve = tuple[Floats, Floats]

WIDTH, HEIGHT = 720, 620
LEFT, TOP, RIGHT, BOTTOM = 80, 50, 690, 540  # of the frame, in pixels of the picture
FONT, SMALL = cv2.FONT_HERSHEY_SIMPLEX, 0.45
BLACK, PALE = (0, 0, 0), (215, 215, 215)
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115))  # which the colour-blind tell apart (Okabe and Ito)
PARTS = 4  # of an axis


def draw_curves(path: Path, title: str, axes: tuple[str, str], farthest: float, curves: Mapping[str, Curve]) -> None:
    """Write curves by name as a PNG: x from 0 to `farthest`, y from 0 to 1; `axes` names both.

    What lies beyond is cut off; an empty curve is named as undefined. The folder is made. Raises OutputError.
    """
    picture = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    draw_frame(picture, title, axes, farthest)
    for number, (name, (x, y)) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        write(picture, name if x.size else f"{name}: undefined", (LEFT + 260, BOTTOM - 20 - 22 * number), colour)
        if not x.size:
            continue
        beyond = np.append(x > farthest, True)
        shown = int(beyond.argmax())
        x, y = np.append(x[:shown], farthest if shown < len(x) else x[-1]), np.append(y[:shown], y[shown - 1])
        places = np.stack([LEFT + x / farthest * (RIGHT - LEFT), BOTTOM - y * (BOTTOM - TOP)], axis=1)
        cv2.polylines(picture, [np.rint(places).astype(np.int32)], False, colour, 2, cv2.LINE_AA)
    prepare_folder(path.parent)
    with replace_file(path) as beside:
        write_png(beside, picture)


def draw_frame(picture: NDArray[np.uint8], title: str, axes: tuple[str, str], farthest: float) -> None:
    """Axes with their numbers and names."""
    for part in range(PARTS + 1):
        x = LEFT + (RIGHT - LEFT) * part // PARTS
        y = BOTTOM - (BOTTOM - TOP) * part // PARTS
        cv2.line(picture, (x, TOP), (x, BOTTOM), PALE)
        cv2.line(picture, (LEFT, y), (RIGHT, y), PALE)
        write(picture, f"{farthest * part / PARTS:g}", (x - 8, BOTTOM + 20), BLACK)
        write(picture, f"{part / PARTS:g}", (LEFT - 32, y + 5), BLACK)
    cv2.rectangle(picture, (LEFT, TOP), (RIGHT, BOTTOM), BLACK)
    write(picture, title, (LEFT, TOP - 18), BLACK)
    write(picture, axes[0], (LEFT, BOTTOM + 48), BLACK)
    upright = np.full((LEFT - 45, BOTTOM - TOP, 3), 255, np.uint8)
    write(upright, axes[1], (0, 20), BLACK)
    picture[TOP:BOTTOM, : LEFT - 45] = np.rot90(upright)


def write(picture: NDArray[np.uint8], text: str, place: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """A line of text that begins at `place`."""
    cv2.putText(picture, text, place, FONT, SMALL, colour, 1, cv2.LINE_AA)
