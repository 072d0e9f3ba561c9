"""Where a scan has come to: which windows can be cut, and what must be kept for the others."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from glassrt.engine.geometry.boxes import Box, Indices
from glassrt.engine.geometry.plan import Layer, Plan
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.push import PushSlide


class Unit(NamedTuple):
    """Windows that are cut together: their numbers in the plan, and in a layer; of the level the pixels they need.

    `arrived` is when the last of these was handed in, in seconds of `time.perf_counter`.
    """

    indices: Indices
    layer: Layer
    numbers: Indices
    box: Box
    arrived: float


class Units:
    """What of a plan is cut together: a window by itself, so that it waits for its own pixels alone; where views are
    scaled, as pixels are then rounded by the region that they are read with, all windows of a cell.
    """

    def __init__(self, plan: Plan, grid: GridReader) -> None:
        self._layer = layer = plan.fine
        self._alone = all((view.width, view.height) == layer.size for view in layer.views)
        if self._alone:
            boxes = [Box(*box) for box in layer.boxes(layer.windows).tolist()]
            self._starts = np.arange(len(boxes) + 1)
        else:
            boxes = [*layer.cells.values()]
            self._starts = np.append(np.searchsorted(layer.cell_of, [*layer.cells]), len(layer.windows))
        self.boxes = [grid.footprint(box) for box in boxes]

    def make(self, number: int, arrived: float) -> Unit:
        """The unit of a number."""
        layer, indices = self._layer, np.arange(self._starts[number], self._starts[number + 1])
        if not self._alone:
            return Unit(indices, layer, indices, self.boxes[number], arrived)
        one = np.zeros(1, np.int64)
        layer = replace(layer, windows=layer.windows[indices], cell_of=one, of=one)
        return Unit(indices, layer, one, self.boxes[number], arrived)


class Front:
    """Tells of each unit as soon as all tiles under it have come, and forgets pixels that none needs any more."""

    def __init__(
        self, slide: PushSlide, grid: GridReader, plan: Plan, ready: Callable[[Unit], None],
        seen: Callable[[int, int], None] | None = None,
    ) -> None:  # fmt: skip
        """`ready` is called with a unit, `seen` with the row and column of each tile that has come."""
        self._slide, self._grid, self._ready, self._seen = slide, grid, ready, seen
        self._lock = threading.Lock()
        self._units = Units(plan, grid)
        self._missing: dict[int, int] = {}
        self._by_block: dict[tuple[int, int], list[int]] = defaultdict(list)
        uses = np.zeros(slide.lattice(grid.level), np.int64)
        for number, box in enumerate(self._units.boxes):
            rows, columns = slide.blocks_under(box)
            uses[rows.start : rows.stop, columns.start : columns.stop] += 1
            self._missing[number] = len(rows) * len(columns)
            for row in rows:
                for column in columns:
                    self._by_block[row, column].append(number)
        slide.keep(grid.level, uses, self._come)

    def release(self, unit: Unit) -> None:
        """A unit has been cut."""
        self._slide.release(self._grid.level, unit.box)

    def give_up(self) -> tuple[list[Unit], Indices]:
        """No tile will come any more: what of the units that are not whole can be cut, and the windows that cannot."""
        now = time.perf_counter()
        with self._lock:
            left = [self._units.make(number, now) for number in self._missing]
            self._missing.clear()
        self._slide.fill()
        whole, lost = [], [np.zeros(0, np.int64)]
        for unit in left:
            boxes = [Box(*box) for box in unit.layer.boxes(unit.layer.windows[unit.numbers]).tolist()]
            seen = np.array([self._slide.has(self._grid.level, self._grid.footprint(box, alone=True)) for box in boxes])
            lost.append(unit.indices[~seen])
            if seen.any():
                whole.append(unit._replace(indices=unit.indices[seen], numbers=unit.numbers[seen]))
        return whole, np.concatenate(lost)

    def _come(self, row: int, column: int, arrived: float) -> None:
        if self._seen is not None:
            self._seen(row, column)
        whole = []
        with self._lock:
            for number in self._by_block.pop((row, column), ()):
                if number in self._missing:
                    self._missing[number] -= 1
                    if not self._missing[number]:
                        del self._missing[number]
                        whole.append(number)
        for number in whole:
            self._ready(self._units.make(number, arrived))
