"""What every slide offers, whatever it is read from."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import Box, Size

Pixels = NDArray[np.uint8]


class Level(NamedTuple):
    """One resolution of a slide: `size` (width, height), `scale` level-0 pixels that one of its pixels spans along x
    and y, `tile` the size of a stored tile, None where there are none.
    """

    size: Size
    scale: tuple[float, float]
    tile: Size | None = None


class Overview(NamedTuple):
    """A picture of a slide as a whole, RGB `[h, w, 3]`, and what it shows in level-0 pixels.

    The frame may be a part of level 0, or reach beyond it, as where the whole glass was seen.
    """

    pixels: Pixels
    frame: Box


def show_whole(overview: Overview | Pixels | None, slide: "Slide") -> Overview | None:
    """An overview with its frame: a picture alone shows the whole slide."""
    if overview is None or isinstance(overview, Overview):
        return overview
    return Overview(overview, Box(0, 0, *slide.levels[0].size))


class Slide(Protocol):
    """A pyramid of RGB images; `close` it, or use it as a context manager. Reading is thread-safe.

    `bounds` is the scanned part in level-0 pixels, to which viewers crop; None where it is the whole.
    """

    name: str
    path: Path | str | None  # of its file as it was given, a text for an address elsewhere; None for what has none
    source: str
    mpp: float
    levels: tuple[Level, ...]
    bounds: Box | None

    def read_level(self, level: int, level_xy: tuple[int, int], size: Size) -> Pixels:
        """RGB `[h, w, 3]` of a region that lies inside the level; owned by the caller."""

    def overview(self) -> Overview | None:
        """What was seen of the slide before its levels, where tissue is then looked for; None to look in the levels."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def lay_levels(sizes: Sequence[Size], tiles: Sequence[Size | None] = ()) -> tuple[Level, ...]:
    """Levels of these sizes, all of which show the whole of the first; their tiles' sizes, if any are known."""
    width, height = sizes[0]
    return tuple(
        Level(size, (width / size[0], height / size[1]), tiles[index] if tiles else None)
        for index, size in enumerate(sizes)
    )
