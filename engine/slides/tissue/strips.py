"""A picture that comes in strips from top to bottom: each with its neighbours' rows, and all of it made smaller."""

from collections.abc import Iterator

import numpy as np

from glassrt.engine.slides.resampling import average_blocks
from glassrt.engine.slides.slide import Pixels


def overlap(strips: Iterator[Pixels], halo: int) -> Iterator[tuple[Pixels, int, int]]:
    """Each strip with up to `halo` rows of its neighbours, and the first and end row of its own."""
    before, current = None, next(strips)
    while current is not None:
        after = next(strips, None)
        parts = [part for part in (before, current, None if after is None else after[:halo]) if part is not None]
        joined = np.concatenate(parts)
        first = 0 if before is None else len(before)
        end = first + len(current)
        yield joined, first, end
        before, current = joined[max(0, end - halo) : end], after  # type: ignore[assignment]


class Shrunk:
    """A picture averaged over blocks of `side` x `side` pixels, from strips of any height."""

    def __init__(self, side: int) -> None:
        self._side = side
        self._done: list[Pixels] = []
        self._rest: list[Pixels] = []

    def add(self, strip: Pixels) -> None:
        """Add the next rows."""
        rows = np.concatenate([*self._rest, strip])
        whole = len(rows) // self._side * self._side
        if whole:
            self._done.append(average_blocks(rows[:whole], self._side, self._side))
        self._rest = [rows[whole:].copy()]

    def finish(self) -> Pixels:
        """All of it."""
        last = [average_blocks(rows, self._side, self._side) for rows in self._rest if len(rows)]
        return np.concatenate([*self._done, *last])
