"""Window logits -> map of probabilities, tile by tile, in memory that does not grow with the slide.

The multi-scale test (OEEM section 2.3): logits averaged over the windows that cover a pixel, resized to the
map, softmax, probabilities averaged over views. The canvas keeps the networks' own small outputs and only
upsamples them for the tile at hand, straight to the pixels that the map samples: a window of 320 pixels at
output stride 16 waits as 1.6 kB, and pixels that no map pixel looks at are never computed. Softmax sees only how far
the other classes' logits lie from the first's, so only those differences are kept and upsampled.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import Indices, bands
from glassrt.engine.geometry.plan import Plan
from glassrt.engine.geometry.sampling import Sampling
from glassrt.engine.maps.upsampling import (
    Floats,
    Slice,
    add_product,
    interpolate,
    softmax_beside_zero,
    upsampling_matrix,
)

TILE = 512


@dataclass(frozen=True)
class Tile:
    """A finished part of the map, whose first pixel is (left, top) in map pixels.

    `probabilities` is `[C, h, w]`, sums to 1 over C where `analysed` `[h, w]` and is 0 elsewhere. `contour` `[h, w]` is
    that part of a class's probability which lies at its contour, where a network tells it.
    """

    top: int
    left: int
    probabilities: Floats
    analysed: NDArray[np.bool_]
    contour: Floats | None = None


class Canvas:
    """Collects the logits of a plan's windows, in any order, and hands finished tiles to `place`.

    Tiles come top to bottom and left to right, each as soon as the last window of its band has arrived;
    parts of the map that no window covers are not handed out. The last plane of logits is the contour of class
    `contour_of`, unless that is 0.
    """

    def __init__(
        self,
        plan: Plan,
        output_stride: int,
        map_size: tuple[int, int],
        place: Callable[[Tile], None],
        contour_of: int = 0,
    ) -> None:
        self._plan, self._place, self._contour_of = plan, place, contour_of
        self._map_width, map_height = map_size
        self._bands = list(bands(map_height, TILE))
        self._upsampling = upsampling_matrix(plan.window, output_stride)
        self._across = [Sampling.between(self._map_width, view.width) for view in plan.views]
        self._down = [Sampling.between(map_height, view.height) for view in plan.views]
        self._columns = self._map_ranges(self._across, axis=1)
        rows = self._map_ranges(self._down, axis=2)
        self._first_band, self._last_band = rows[:, 0] // TILE, (rows[:, 1] - 1) // TILE
        self._missing = np.zeros(len(self._bands) + 1, np.int64)
        np.add.at(self._missing, self._first_band, 1)
        np.add.at(self._missing, self._last_band + 1, -1)
        self._missing = self._missing.cumsum()[:-1]
        self._held: dict[int, Floats] = {}
        self._by_band: list[list[int]] = [[] for _ in self._bands]
        self._next_band = 0

    def _map_ranges(self, samplings: list[Sampling], axis: int) -> Indices:
        """`[n, 2]` first and end map pixel that each window has a share in, along one axis."""
        ranges = np.zeros((len(self._plan.windows), 2), np.int64)
        for view, sampling in enumerate(samplings):
            mine = self._plan.windows[:, 0] == view
            start = self._plan.windows[mine, axis]
            ranges[mine] = np.column_stack(sampling.map_range(start, start + self._plan.window))
        # On a map so coarse that no pixel of it lies in a window, the nearest one stands for it.
        ranges[:, 0] = np.minimum(ranges[:, 0], samplings[0].lower.size - 1)
        ranges[:, 1] = np.maximum(ranges[:, 1], ranges[:, 0] + 1)
        return ranges

    def add(self, indices: Indices, outputs: Mapping[str, Floats]) -> None:
        """Take the logits `[n, C, h, w]`, the only outputs, of the plan's windows `indices`; they are copied."""
        (logits,) = outputs.values()
        for index, one in zip(indices.tolist(), logits, strict=True):
            self._held[index] = self.compare(index, one)
            for band in self._arrive(index):
                self._by_band[band].append(index)
        self._finish_bands()

    def compare(self, index: int, logits: Floats) -> Floats:
        """What is kept of a window's logits `[C, h, w]`: how far the others' lie from the first's, not mirrored."""
        flip = self._plan.views[self._plan.windows[index, 0]].flip
        return logits[1:, :, ::-1] - logits[:1, :, ::-1] if flip else logits[1:] - logits[:1]

    def drop(self, indices: Indices) -> None:
        """Go without these windows: where no other covers the map, it is not analysed."""
        for index in indices.tolist():
            self._arrive(index)
        self._finish_bands()

    def _arrive(self, index: int) -> range:
        """Note that a window is waited for no more; returns its bands."""
        bands = range(self._first_band[index], self._last_band[index] + 1)
        self._missing[bands.start : bands.stop] -= 1
        return bands

    def _finish_bands(self) -> None:
        while self._next_band < len(self._bands) and not self._missing[self._next_band]:
            self._finish_band(self._next_band)
            self._next_band += 1

    def finish(self) -> None:
        """Check that every band was handed out: all windows of the plan must have been added or dropped."""
        if self._next_band == 0 and not len(self._plan.windows):
            return
        assert self._next_band == len(self._bands), "a window of the plan was never added"

    def _finish_band(self, band: int) -> None:
        indices = np.sort(np.array(self._by_band[band], np.int64))
        top, bottom = self._bands[band]
        for left, right in bands(self._map_width, TILE):
            columns = self._columns[indices]
            touching = indices[(columns[:, 0] < right) & (columns[:, 1] > left)]
            if len(touching):
                self._place(self._compose(touching, top, bottom, left, right))
        for index in indices.tolist():
            if self._last_band[index] == band:
                del self._held[index]
        self._by_band[band] = []

    def _compose(self, indices: Indices, top: int, bottom: int, left: int, right: int) -> Tile:
        """Average the views over one tile."""
        shape = (bottom - top, right - left)
        total: Floats | None = None
        seen = np.zeros(shape, np.float32)
        views = self._plan.windows[indices, 0]
        for view in np.unique(views).tolist():
            probabilities, covered = self._compose_view(view, indices[views == view], top, bottom, left, right)
            total = probabilities if total is None else np.add(total, probabilities, out=total)
            seen += covered
        assert total is not None
        total /= np.maximum(seen, 1)
        if not self._contour_of:
            return Tile(top, left, total, seen > 0)
        probabilities, contour = total[:-1], total[-1]
        probabilities[self._contour_of] += contour
        return Tile(top, left, probabilities, seen > 0, contour)

    def _compose_view(
        self, view: int, indices: Indices, top: int, bottom: int, left: int, right: int
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Probabilities `[C, h, w]` of one view over one tile, 0 where no window covers, and the cover."""
        down, across = Slice.of(self._down[view], top, bottom), Slice.of(self._across[view], left, right)
        others = self._held[int(indices[0])].shape[0]
        total = np.zeros((others, len(down.needed), len(across.needed)), np.float32)
        count = np.zeros(total.shape[1:], np.uint32)
        for index in indices.tolist():
            _, x, y = self._plan.windows[index].tolist()
            rows, columns = down.inside(y, self._plan.window), across.inside(x, self._plan.window)
            upsample_rows = self._upsampling[down.needed[rows] - y]
            upsample_columns = self._upsampling[across.needed[columns] - x]
            held = self._held[index]
            tall = np.zeros((others, len(upsample_rows), held.shape[2]), np.float32)
            for plane, low in zip(tall, held, strict=True):
                add_product(plane[None], upsample_rows[None], low)
            add_product(total[:, rows, columns], tall, upsample_columns.T)
            count[rows, columns] += 1
        if count.max() > 1:
            total *= np.float32(1) / np.maximum(count, 1, dtype=np.float32)
        logits = interpolate(total, down, across)
        if count.all():
            return softmax_beside_zero(logits), np.ones(logits.shape[1:], np.bool_)
        # Beside a gap, the samples that exist share the weight of those that do not.
        cover = interpolate((count > 0).astype(np.float32)[None], down, across)[0]
        covered = cover > 1e-6
        logits /= np.where(covered, cover, 1)
        return softmax_beside_zero(logits) * covered, covered
