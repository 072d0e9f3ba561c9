"""read -> cut -> batch -> infer -> hand on, with a bounded number of windows under way.

Threads read regions and cut windows, others run the network, and the calling thread takes what it gave. Windows arrive
in the plan's order, so results do not depend on timing.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError
from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.geometry.plan import Part, Plan
from glassrt.engine.runtimes.protocol import Backend, run_windows
from glassrt.engine.slides.grid import GridReader, resample, scale_exactly
from glassrt.engine.slides.slide import Pixels
from glassrt.engine.watch import Clock

CALLS_AHEAD = 2  # of each stream: one runs and one waits, so that none idles while logits are taken
WINDOWS_AHEAD = 64  # cut and waiting: 20 MB at 320 pixels, two cells ahead of the network


def infer_windows(
    grid: GridReader,
    plan: Plan,
    backend: Backend,
    readers: int,
    consume: Callable[[Indices, NDArray[np.float32]], None],
    clock: Clock,
) -> None:
    """Run every window of the plan through the backend and hand its logits to `consume(indices, logits)`.

    The last batch is filled up with blank windows.
    """
    with ThreadPoolExecutor(readers, "reader") as reading, ThreadPoolExecutor(backend.streams, "network") as network:
        try:
            batches = cut_batches(grid, plan, backend.batch, reading, readers, clock)
            for indices, logits in infer_batches(backend, batches, network, clock):
                with clock.time("stitch"):
                    logits = logits[: len(indices)]
                    refuse_non_finite(logits, indices, grid, plan, backend)
                    consume(indices, logits)
        finally:
            network.shutdown(cancel_futures=True)
            reading.shutdown(cancel_futures=True)


def infer_batches(
    backend: Backend, batches: Iterable[tuple[Indices, Pixels]], pool: ThreadPoolExecutor, clock: Clock
) -> Iterator[tuple[Indices, NDArray[np.float32]]]:
    """Yield (indices, logits) in order from a pool of the backend's streams, which are busy meanwhile."""

    def infer(batch: Pixels) -> NDArray[np.float32]:
        with clock.time("infer"):
            return run_windows(backend, batch)

    running: deque[tuple[Indices, Future[NDArray[np.float32]]]] = deque()
    for indices, batch in batches:
        running.append((indices, pool.submit(infer, batch)))
        if len(running) > CALLS_AHEAD * backend.streams:
            oldest, logits = running.popleft()
            yield oldest, logits.result()
    for oldest, logits in running:
        yield oldest, logits.result()


def refuse_non_finite(
    logits: NDArray[np.float32], indices: Indices, grid: GridReader, plan: Plan, backend: Backend
) -> None:
    """Raise SlideError where a window's logits are no numbers: as a class they would look like the background."""
    if np.isfinite(logits).all():
        return
    bad = int(indices[~np.isfinite(logits).reshape(len(logits), -1).all(axis=1)][0])
    number, *xy = plan.windows[bad].tolist()
    view = plan.views[number]
    x, y = (
        round(max(0, at) * base / length)
        for at, base, length in zip(xy, grid.slide.level_sizes[0], (view.width, view.height), strict=True)
    )
    raise SlideError(
        f"{grid.slide.name}: the network gave NaN or infinity for the window at x {x}, y {y} of level 0 (scale "
        f"{view.scale:g}), in {backend.precision} through {backend.name} {backend.version} on {backend.device}: "
        "take another --precision or --backend, and run `glassrt verify`"
    )


def cut_batches(
    grid: GridReader, plan: Plan, size: int, pool: ThreadPoolExecutor, readers: int, clock: Clock
) -> Iterator[tuple[Indices, Pixels]]:
    """Yield (indices, windows `[size, H, W, 3]`) in order, cut ahead by the pool."""
    regions: dict[int, Future[Pixels]] = {}
    parts: dict[int, Future[Pixels]] = {}
    cutting: deque[tuple[Indices, Future[Pixels]]] = deque()
    ahead = readers + -(-WINDOWS_AHEAD // size)
    for start in range(0, len(plan.windows), size):
        indices = np.arange(start, min(start + size, len(plan.windows)))
        # What a task waits for is handed to the pool before it, so no task waits for a later one.
        cells, numbers = (dict.fromkeys(of[indices].tolist()) for of in (plan.cell_of, plan.part_of))
        regions = {cell: regions.get(cell) or pool.submit(read_region, grid, plan, cell, clock) for cell in cells}
        parts = {
            number: parts.get(number)
            or pool.submit(scale_part, plan, plan.parts[number], regions[plan.parts[number].cell], clock)
            for number in numbers
        }
        cutting.append((indices, pool.submit(cut_batch, plan, indices, size, parts, clock)))
        if len(cutting) > ahead:
            oldest, batch = cutting.popleft()
            yield oldest, batch.result()
    while cutting:
        oldest, batch = cutting.popleft()
        yield oldest, batch.result()


def read_region(grid: GridReader, plan: Plan, cell: int, clock: Clock) -> Pixels:
    """The pixels that a cell's windows are cut from."""
    box = plan.cells[cell]
    with clock.time("read"):
        return grid.read(box.left, box.top, *box.size)


def scale_part(plan: Plan, part: Part, region: Future[Pixels], clock: Clock) -> Pixels:
    """What a part's windows cover of the scaled image, bilinear from its cell's region.

    An image that fits into one region is scaled as a whole, exactly; beyond that a value in a thousand may
    round to the neighbouring grey level.
    """
    pixels, box, view, cell = region.result(), part.box, plan.views[part.view], plan.cells[part.cell]
    with clock.time("cut"):
        if (view.width, view.height) == plan.size:
            return pixels[box.top - cell.top : box.bottom - cell.top, box.left - cell.left : box.right - cell.left]
        if cell.size == plan.size and box.size == (view.width, view.height):
            return scale_exactly(pixels, box.size)
        across, down = plan.size[0] / view.width, plan.size[1] / view.height
        offset_x = (box.left + 0.5) * across - 0.5 - cell.left
        offset_y = (box.top + 0.5) * down - 0.5 - cell.top
        return resample(pixels, (across, down), (offset_x, offset_y), box.size)


def cut_batch(plan: Plan, indices: Indices, size: int, parts: dict[int, Future[Pixels]], clock: Clock) -> Pixels:
    """Windows `[size, H, W, 3]`, reflected where the image ends; those beyond `indices` are blank."""
    pixels = {number: part.result() for number, part in parts.items()}
    with clock.time("cut"):
        batch = np.zeros((size, plan.window, plan.window, 3), np.uint8)
        for out, index in zip(batch, indices.tolist(), strict=False):
            number = int(plan.part_of[index])
            view, x, y = plan.windows[index].tolist()
            left, top = x - plan.parts[number].box.left, y - plan.parts[number].box.top
            window = pixels[number][max(top, 0) : top + plan.window, max(left, 0) : left + plan.window]
            height, width = window.shape[:2]
            if (height, width) != out.shape[:2]:
                before_y, before_x = max(-top, 0), max(-left, 0)
                after_y, after_x = plan.window - height - before_y, plan.window - width - before_x
                window = cv2.copyMakeBorder(  # type: ignore[assignment]
                    window, before_y, after_y, before_x, after_x, cv2.BORDER_REFLECT_101
                )
            out[:] = window[:, ::-1] if plan.views[view].flip else window
    return batch
