"""The image at every scale of the multi-scale test (OEEM, MICCAI 2022, section 2.3), and where its windows lie."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from glassrt.engine.geometry.boxes import Size


@dataclass(frozen=True)
class View:
    """The grid at one scale, mirrored or not, with the places of its windows.

    `xs` and `ys` are first pixels of windows in the unmirrored scaled image. Where the image is smaller than
    a window, it begins at the window's start; a mirrored view's window then begins left of the image.
    """

    scale: float
    flip: bool
    width: int
    height: int
    xs: tuple[int, ...]
    ys: tuple[int, ...]


def round_half_up(value: float) -> int:
    """The nearest whole number, halves up."""
    return math.floor(value + 0.5)


def scale_size(size: Size, scale: float) -> Size:
    """Width and height of an image resized by a scale."""
    return max(1, round_half_up(scale * size[0])), max(1, round_half_up(scale * size[1]))


def shrink(size: Size, factor: float) -> Size:
    """Width and height of a grid whose pixels are `factor` times as large."""
    return max(1, round_half_up(size[0] / factor)), max(1, round_half_up(size[1] / factor))


def window_starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    """First pixels of the windows along one axis; the last one is shifted back to end at the border."""
    if length <= window:
        return (0,)
    return (*range(0, length - window, stride), length - window)


def lay_views(size: Size, scales: Sequence[float], flips: bool, window: int, stride: int) -> tuple[View, ...]:
    """One view a scale, or two with flips. A mirrored view has the windows of the mirrored image."""
    views = []
    for scale in scales:
        width, height = scale_size(size, scale)
        xs, ys = window_starts(width, window, stride), window_starts(height, window, stride)
        views.append(View(scale, False, width, height, xs, ys))
        if flips:
            mirrored = tuple(width - window - x for x in reversed(xs))
            views.append(View(scale, True, width, height, mirrored, ys))
    return tuple(views)
