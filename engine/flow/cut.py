"""Windows cut from regions: of each cell and input a region is read once, scaled once a view, and cut."""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import cv2
import numpy as np

from glassrt.engine.flow.runner import RegionSource
from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.geometry.plan import Layer, Part, Plan
from glassrt.engine.runtimes.protocol import Array
from glassrt.engine.slides.resampling import resample, scale_exactly
from glassrt.engine.slides.slide import Pixels
from glassrt.engine.watch import Clock

Begun = TypeVar("Begun")

WINDOWS_AHEAD = 64  # cut and waiting: 20 MB at 320 pixels, two cells ahead of the network

Batch = Mapping[str, Array]  # of each input by its name: windows `[n, H, W, 3]`, or what tells where they lie


def cut_batches(
    source: RegionSource, plan: Plan, size: int, pool: ThreadPoolExecutor, readers: int, clock: Clock
) -> Iterator[tuple[Indices, Batch]]:
    """Yield (indices, `size` of each input) in order, cut ahead by the pool."""
    cutters = [Cutter(source, layer, pool, clock) for layer in plan.layers]
    begun = (
        (indices, [cutter.cut(layer.of[indices], size) for cutter, layer in zip(cutters, plan.layers, strict=True)])
        for indices in each_batch(len(plan.windows), size)
    )
    for indices, batch in keep_ahead(begun, readers + -(-WINDOWS_AHEAD // size)):
        windows = {cutter.name: cut.result() for cutter, cut in zip(cutters, batch, strict=True)}
        yield indices, {**windows, **tell_places(plan, indices, size)}


def cut_layer(
    source: RegionSource, layer: Layer, size: int, pool: ThreadPoolExecutor, ahead: int, clock: Clock
) -> Iterator[tuple[Indices, Pixels]]:
    """Yield (numbers, windows `[size, H, W, 3]`) of one input alone, `ahead` batches of them cut before."""
    cutter = Cutter(source, layer, pool, clock)
    begun = ((numbers, cutter.cut(numbers, size)) for numbers in each_batch(len(layer.windows), size))
    for numbers, cut in keep_ahead(begun, ahead):
        yield numbers, cut.result()


def cut_windows(source: RegionSource, plan: Plan, indices: Indices, clock: Clock) -> Batch:
    """What each input is given of the fine windows `indices`, in any order: as a run cuts it."""
    with ThreadPoolExecutor(1) as pool:
        cutters = [(Cutter(source, layer, pool, clock), layer.of[indices]) for layer in plan.layers]
        windows = {
            cutter.name: np.concatenate([cutter.cut(numbers[at : at + 1], 1).result() for at in range(len(numbers))])
            for cutter, numbers in cutters
        }
    return {**windows, **tell_places(plan, indices, len(indices))}


def tell_places(plan: Plan, indices: Indices, size: int) -> Batch:
    """`place` `[size, 2]` of fine windows in their surroundings where a network is told it, zeros beyond `indices`."""
    if not any(layer.input.placed for layer in plan.layers):
        return {}
    places = np.zeros((size, 2), np.float32)
    places[: len(indices)] = plan.places(indices)
    return {"place": places}


def each_batch(count: int, size: int) -> Iterator[Indices]:
    """The numbers below `count`, `size` at a time."""
    return (np.arange(start, min(start + size, count)) for start in range(0, count, size))


def keep_ahead(begun: Iterator[Begun], ahead: int) -> Iterator[Begun]:
    """The same, but `ahead` of them begin before they are asked for."""
    waiting: deque[Begun] = deque()
    for each in begun:
        waiting.append(each)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


class Cutter:
    """Cuts one input's windows in a pool. Regions and what was scaled of them wait for the next batch alone."""

    def __init__(self, source: RegionSource, layer: Layer, pool: ThreadPoolExecutor, clock: Clock) -> None:
        self.name = layer.input.name
        self._source, self._layer = source.at(layer.input.factor), layer
        self._pool, self._clock = pool, clock
        self._regions: dict[int, Future[Pixels]] = {}
        self._parts: dict[int, Future[Pixels]] = {}

    def cut(self, indices: Indices, size: int) -> Future[Pixels]:
        """Windows `[size, H, W, 3]`, those beyond `indices` blank."""
        # What a task waits for is handed to the pool before it, so no task waits for a later one.
        layer = self._layer
        cells, numbers = (dict.fromkeys(of[indices].tolist()) for of in (layer.cell_of, layer.part_of))
        self._regions = {
            cell: self._regions.get(cell) or self._pool.submit(read_region, self._source, layer, cell, self._clock)
            for cell in cells
        }
        self._parts = {
            number: self._parts.get(number)
            or self._pool.submit(
                scale_part, layer, layer.parts[number], self._regions[layer.parts[number].cell], self._clock
            )
            for number in numbers
        }
        return self._pool.submit(cut_batch, layer, indices, size, self._parts, self._clock)


def read_region(source: RegionSource, layer: Layer, cell: int, clock: Clock) -> Pixels:
    """The pixels that a cell's windows are cut from."""
    box = layer.cells[cell]
    with clock.time("read"):
        return source.read(box.left, box.top, *box.size)


def scale_part(layer: Layer, part: Part, region: Future[Pixels], clock: Clock) -> Pixels:
    """What a part's windows cover of the scaled image, bilinear from its cell's region.

    An image that fits into one region is scaled as a whole, exactly; beyond that a value in a thousand may
    round to the neighbouring grey level.
    """
    pixels, box, view, cell = region.result(), part.box, layer.views[part.view], layer.cells[part.cell]
    with clock.time("cut"):
        if (view.width, view.height) == layer.size:
            return pixels[box.top - cell.top : box.bottom - cell.top, box.left - cell.left : box.right - cell.left]
        if cell.size == layer.size and box.size == (view.width, view.height):
            return scale_exactly(pixels, box.size)
        across, down = layer.size[0] / view.width, layer.size[1] / view.height
        offset_x = (box.left + 0.5) * across - 0.5 - cell.left
        offset_y = (box.top + 0.5) * down - 0.5 - cell.top
        return resample(pixels, (across, down), (offset_x, offset_y), box.size)


def cut_batch(layer: Layer, indices: Indices, size: int, parts: Mapping[int, Future[Pixels]], clock: Clock) -> Pixels:
    """Windows `[size, H, W, 3]`, reflected where the image ends; those beyond `indices` are blank."""
    side = layer.input.side
    pixels = {number: part.result() for number, part in parts.items()}
    with clock.time("cut"):
        batch = np.zeros((size, side, side, 3), np.uint8)
        for out, index in zip(batch, indices.tolist(), strict=False):
            number = int(layer.part_of[index])
            view, x, y = layer.windows[index].tolist()
            left, top = x - layer.parts[number].box.left, y - layer.parts[number].box.top
            window = pixels[number][max(top, 0) : top + side, max(left, 0) : left + side]
            height, width = window.shape[:2]
            if (height, width) != out.shape[:2]:
                before_y, before_x = max(-top, 0), max(-left, 0)
                after_y, after_x = side - height - before_y, side - width - before_x
                window = cv2.copyMakeBorder(  # type: ignore[assignment]
                    window, before_y, after_y, before_x, after_x, cv2.BORDER_REFLECT_101
                )
            out[:] = window[:, ::-1] if layer.views[view].flip else window
    return batch
