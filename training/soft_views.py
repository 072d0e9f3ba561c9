"""Views of images and slides at random, with what teachers say of them."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError
from glassrt.engine.geometry.boxes import Box, Size
from glassrt.engine.geometry.views import window_starts
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.readers import open_slide
from glassrt.training import augment
from glassrt.training.augment import Pixels
from glassrt.training.batches import Example, Random, shuffled
from glassrt.training.metrics import IGNORE
from glassrt.training.soft_maps import SoftMap
from glassrt.training.teachers import Planned, open_made

OPENED = 256  # images and slides that stay open
KNOWN = 255  # where a pixel was not looked at wholly, the teachers did not

Matrix = NDArray[np.float64]


class Look(NamedTuple):
    """How views are drawn: squares of `crop` pixels at `mpp`, `resize`d, turned by any angle if they `rotate`, with
    varied colours. A pixel on which teachers disagree wholly loses the share `disagreement` of its weight.
    """

    mpp: float
    crop: int
    resize: tuple[float, float]
    rotate: bool
    colour: augment.Colour
    disagreement: float
    seed: int


class SoftViews:
    """Views of images and slides with what teachers say of them, and with the class mask of those that have one."""

    def __init__(self, planned: Sequence[Planned], masks: Sequence[Pixels], look: Look) -> None:
        self._planned, self._masks, self._look = planned, masks, look
        self._maps = [open_made(each) for each in planned]
        self._squares = [
            (number, square)
            for number, (each, soft) in enumerate(zip(planned, self._maps, strict=True))
            for square in find_squares(soft, each.grid, look.crop)
        ]
        if not self._squares:
            raise DatasetError("the teachers found no tissue on any of the slides: name others")
        self._open = lru_cache(maxsize=OPENED)(self._open_grid)

    def _open_grid(self, number: int) -> GridReader:
        source = self._planned[number].source
        return GridReader(open_slide(source.path, source.mpp), self._look.mpp)

    def draw(self, number: int, random: Random) -> Example:
        """A view, and as its label uint8 `[planes - 1 + 2, crop, crop]`: probabilities, weight, class mask."""
        look = self._look
        index, square = self._squares[shuffled(number, len(self._squares), look.seed)]
        grid, source = self._open(index), self._planned[index].source
        turn, _ = augment.turn_at_random(look.resize, look.rotate, random)
        size = (grid.width, grid.height)
        matrix = augment.lay_square(turn, random.uniform(square[:2], square[2:]), look.crop)
        box = bound(matrix, look.crop, size)
        pixels = grid.read(box.left, box.top, *box.size)
        view = warp(pixels, shift(matrix, box), look.crop, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101)
        if source.sample is None:
            mask = np.full(view.shape[:2], IGNORE, np.uint8)
        else:
            truth = self._masks[source.sample]
            mask = warp(truth, matrix, look.crop, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, IGNORE)
        label = np.concatenate([look_up(self._maps[index], matrix, size, look), mask[None]])
        return Example(augment.COLOURS[look.colour](view, random), label, str(source.path))


def find_squares(soft: SoftMap, grid: Size, side: int) -> list[NDArray[np.float64]]:
    """Left, top, right and bottom of those squares of a grid which the teachers looked at: together they cover it, and
    none reaches beyond.
    """
    found = []
    scale = np.array(soft.about.size) / grid
    for top in window_starts(grid[1], side, side):
        bottom = min(top + side, grid[1])
        rows = [int(each * scale[1]) for each in (top, bottom)]
        looked = soft.read(Box(0, rows[0], soft.about.size[0], max(rows[1], rows[0] + 1)))[0].any(axis=0)
        for left in window_starts(grid[0], side, side):
            right = min(left + side, grid[0])
            first, end = (int(each * scale[0]) for each in (left, right))
            if looked[first : max(end, first + 1)].any():
                found.append(np.array([left, top, right, bottom], float))
    return found


def bound(matrix: Matrix, side: int, size: Size) -> Box:
    """The box of an image of (width, height) that a square view is made from; of one that lies outside, its border."""
    corners = matrix @ np.array([[0, 0, 1], [side, 0, 1], [0, side, 1], [side, side, 1]], float).T
    low = np.clip(np.floor(corners.min(axis=1)) - 1, 0, np.array(size) - 1).astype(int)
    high = np.clip(np.ceil(corners.max(axis=1)) + 2, low + 1, size).astype(int)
    return Box(*low.tolist(), *high.tolist())


def shift(matrix: Matrix, box: Box) -> Matrix:
    """The same view of the part of an image in a box."""
    moved = matrix.copy()
    moved[:, 2] -= (box.left, box.top)
    return moved


def warp(plane: Pixels, matrix: Matrix, side: int, how: int, border: int, beyond: int = 0) -> Pixels:
    """A square view of `side` pixels."""
    size, flags = (side, side), how | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(plane, matrix, size, flags=flags, borderMode=border, borderValue=beyond)
    return seen.astype(np.uint8, copy=False)


def look_up(soft: SoftMap, matrix: Matrix, grid: Size, look: Look) -> Pixels:
    """What the teachers say of a view, `[planes - 1, crop, crop]`, and what it counts, of 255."""
    scale = np.array(soft.about.size) / grid
    on_map = scale[:, None] * matrix
    on_map[:, 2] += scale / 2 - 0.5
    box = bound(on_map, look.crop, soft.about.size)
    looked, *planes = soft.read(box)
    here = shift(on_map, box)
    *said, apart = (warp(each, here, look.crop, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE) for each in planes)
    known = warp(looked, here, look.crop, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT) >= KNOWN
    weight = np.where(known, np.rint(255 - look.disagreement * apart), 0).astype(np.uint8)
    return np.stack([*said, weight])
