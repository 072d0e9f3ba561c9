"""Where a scan has come to: which cells of a plan can be read, and what must be kept for the others."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from glassrt.engine.geometry.boxes import Box, Indices
from glassrt.engine.geometry.plan import Plan
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.push import PushSlide


class Front:
    """Tells of each cell as soon as all tiles under its region have come, and forgets pixels that no cell needs.

    `arrived` `[cells]` is when that was, in seconds of `time.perf_counter`, by the cells' numbers.
    """

    def __init__(
        self, slide: PushSlide, grid: GridReader, plan: Plan, ready: Callable[[int, Indices], None],
        seen: Callable[[int, int], None] | None = None,
    ) -> None:  # fmt: skip
        """`ready` is called with a cell and its windows, `seen` with the row and column of each tile that has come."""
        self._slide, self._grid, self._layer = slide, grid, plan.fine
        self._ready, self._seen = ready, seen
        self._lock = threading.Lock()
        self._missing: dict[int, int] = {}
        self._by_block: dict[tuple[int, int], list[int]] = defaultdict(list)
        self.arrived: dict[int, float] = {}
        self._boxes: dict[int, Box] = {}
        uses = np.zeros(slide.lattice(grid.level), np.int64)
        for cell, box in self._layer.cells.items():
            self._boxes[cell] = grid.footprint(box)
            rows, columns = slide.blocks_under(self._boxes[cell])
            uses[rows.start : rows.stop, columns.start : columns.stop] += 1
            self._missing[cell] = len(rows) * len(columns)
            for row in rows:
                for column in columns:
                    self._by_block[row, column].append(cell)
        slide.keep(grid.level, uses, self._come)

    def release(self, cell: int) -> None:
        """A cell has been cut."""
        self._slide.release(self._grid.level, self._boxes[cell])

    def windows_of(self, cell: int) -> Indices:
        """The numbers of a cell's windows."""
        start, end = np.searchsorted(self._layer.cell_of, [cell, cell + 1])
        return np.arange(start, end)

    def give_up(self) -> tuple[list[tuple[int, Indices]], Indices]:
        """No tile will come any more: of the cells that are not whole the windows that are, and all that are not."""
        with self._lock:
            left = [*self._missing]
            self._missing.clear()
        self._slide.fill()
        whole, lost = [], [np.zeros(0, np.int64)]
        for cell in left:
            indices = self.windows_of(cell)
            boxes = [Box(*box) for box in self._layer.boxes(self._layer.windows[indices]).tolist()]
            seen = np.array([self._slide.has(self._grid.level, self._grid.footprint(box, alone=True)) for box in boxes])
            lost.append(indices[~seen])
            if seen.any():
                self.arrived[cell] = time.perf_counter()
                whole.append((cell, indices[seen]))
        return whole, np.concatenate(lost)

    def _come(self, level: int, row: int, column: int) -> None:
        now = time.perf_counter()
        if self._seen is not None:
            self._seen(row, column)
        with self._lock:
            cells = []
            for cell in self._by_block.pop((row, column), ()):
                if cell in self._missing:
                    self._missing[cell] -= 1
                    if not self._missing[cell]:
                        del self._missing[cell]
                        self.arrived[cell] = now
                        cells.append(cell)
        for cell in cells:
            self._ready(cell, self.windows_of(cell))
