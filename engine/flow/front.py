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

    `arrived` is when the last of these had come, in seconds of `time.perf_counter`.
    """

    indices: Indices
    layer: Layer
    numbers: Indices
    box: Box
    arrived: float = 0.0


class Front:
    """Tells of each unit as soon as all tiles under it have come, and forgets pixels that none needs any more."""

    def __init__(
        self, slide: PushSlide, grid: GridReader, plan: Plan, ready: Callable[[Unit], None],
        seen: Callable[[int, int], None] | None = None,
    ) -> None:  # fmt: skip
        """`ready` is called with a unit, `seen` with the row and column of each tile that has come."""
        self._slide, self._grid, self._ready, self._seen = slide, grid, ready, seen
        self._lock = threading.Lock()
        self._units = make_units(plan, grid)
        self._missing: dict[int, int] = {}
        self._by_block: dict[tuple[int, int], list[int]] = defaultdict(list)
        uses = np.zeros(slide.lattice(grid.level), np.int64)
        for number, unit in enumerate(self._units):
            rows, columns = slide.blocks_under(unit.box)
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
        with self._lock:
            left = [self._units[number] for number in self._missing]
            self._missing.clear()
        self._slide.fill()
        whole, lost = [], [np.zeros(0, np.int64)]
        for unit in left:
            boxes = [Box(*box) for box in unit.layer.boxes(unit.layer.windows[unit.numbers]).tolist()]
            seen = np.array([self._slide.has(self._grid.level, self._grid.footprint(box, alone=True)) for box in boxes])
            lost.append(unit.indices[~seen])
            if seen.any():
                whole.append(
                    unit._replace(indices=unit.indices[seen], numbers=unit.numbers[seen], arrived=time.perf_counter())
                )
        return whole, np.concatenate(lost)

    def _come(self, level: int, row: int, column: int) -> None:
        now = time.perf_counter()
        if self._seen is not None:
            self._seen(row, column)
        with self._lock:
            whole = []
            for number in self._by_block.pop((row, column), ()):
                if number in self._missing:
                    self._missing[number] -= 1
                    if not self._missing[number]:
                        del self._missing[number]
                        whole.append(self._units[number]._replace(arrived=now))
        for unit in whole:
            self._ready(unit)


def make_units(plan: Plan, grid: GridReader) -> list[Unit]:
    """What is cut together: a window by itself, so that it waits for its own pixels alone; where views are scaled, as
    pixels are then rounded by the region that they are read with, all windows of a cell.
    """
    layer, numbers = plan.fine, np.arange(len(plan.windows))
    if all((view.width, view.height) == layer.size for view in layer.views):
        boxes = layer.boxes(layer.windows)
        one = np.zeros(1, np.int64)
        return [
            Unit(
                numbers[index : index + 1],
                replace(layer, windows=layer.windows[index : index + 1], cell_of=one, of=one),
                one,
                grid.footprint(Box(*box)),
            )
            for index, box in enumerate(boxes.tolist())
        ]
    units = []
    for cell, box in layer.cells.items():
        start, end = np.searchsorted(layer.cell_of, [cell, cell + 1])
        units.append(Unit(numbers[start:end], layer, numbers[start:end], grid.footprint(box)))
    return units
