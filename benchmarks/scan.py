"""Slides that are scored while a scanner hands them in: how far maps are behind, and what that takes."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import psutil

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.geometry.boxes import Size
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.push import PushSlide
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.slide import Pixels
from glassrt.engine.tasks.scan import MOST_BACKLOG, MapTile, ScanSession

TILE = 1024  # pixels of a scanner's tile
MPP = 0.5
OVERVIEW = 16  # level-0 pixels to a pixel of the picture that comes first


class Scanner:
    """Hands in a slide of any size, which repeats a real one, in snake order."""

    def __init__(self, slide: Path, side_mm: tuple[float, float]) -> None:
        """`side_mm` is (width, height). Raises SlideError."""
        with open_slide(slide) as opened:
            self._side = opened.levels[0].size
            pixels = opened.read_level(0, (0, 0), self._side)
        self._pixels = np.pad(pixels, ((0, TILE), (0, TILE), (0, 0)), mode="wrap")  # of which every tile is a part
        self.size: Size = (round(side_mm[0] * 1000 / MPP), round(side_mm[1] * 1000 / MPP))

    def places(self) -> list[Size]:
        """First pixels of the tiles as they come."""
        rows = range(0, self.size[1], TILE)
        row = range(0, self.size[0], TILE)
        return [(x, y) for number, y in enumerate(rows) for x in (row if number % 2 == 0 else reversed(row))]

    def tile(self, place: Size) -> Pixels:
        """A tile, cut where the slide ends."""
        left, top = place[0] % self._side[0], place[1] % self._side[1]
        width, height = min(TILE, self.size[0] - place[0]), min(TILE, self.size[1] - place[1])
        return np.ascontiguousarray(self._pixels[top : top + height, left : left + width])

    def overview(self) -> Pixels:
        """What its camera saw of the whole."""
        columns, rows = (
            np.arange(OVERVIEW // 2, length, OVERVIEW) % side
            for length, side in zip(self.size, self._side, strict=True)
        )
        picture: Pixels = self._pixels[rows[:, None], columns]
        return picture


class Scanned(NamedTuple):
    """What came of a scan: when each map tile was told of, in seconds from its start, and how far behind it was; the
    seconds of `finish`, and how long handing in took in all; the most memory, beyond what was there before.
    """

    times: Sequence[float]
    lags: Sequence[float]
    finish_s: float
    scan_s: float
    waited_s: float
    windows: int
    memory_mb: float


def scan(
    scanner: Scanner, bundle: Bundle, backend: Backend, seconds: float, most_backlog: int = MOST_BACKLOG
) -> Scanned:
    """Hand a slide in within so many seconds, or as fast as it is taken for 0."""
    times, lags = list[float](), list[float]()
    places = scanner.places()
    slide = PushSlide([scanner.size], MPP, TILE)
    with TemporaryDirectory() as folder, most_memory() as memory:
        before = psutil.Process().memory_info().rss

        def note(tile: MapTile) -> None:
            times.append(time.perf_counter() - start)
            lags.append(tile.lag_s)

        session = ScanSession(
            bundle, slide, Path(folder) / "slide", scanner.overview(), backend, most_backlog=most_backlog, on_map=note
        )
        with session:
            start, waited = time.perf_counter(), 0.0
            for number, place in enumerate(places):
                pixels = scanner.tile(place)
                time.sleep(max(0.0, start + seconds * number / len(places) - time.perf_counter()))
                began = time.perf_counter()
                session.push(0, *place, pixels)
                waited += time.perf_counter() - began
            end = time.perf_counter()
            result = session.finish()
        finish_s = time.perf_counter() - end
    most = (memory[0] - before) / 1e6
    return Scanned(times, lags, finish_s, end - start, waited, result.windows["run"], most)


@contextmanager
def most_memory() -> Iterator[list[int]]:
    """The most resident memory of this process meanwhile, in bytes."""
    most, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            most[0] = max(most[0], psutil.Process().memory_info().rss)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def measure_scan(
    slide: Path, bundle: Bundle, backend: Backend, load: float, side_mm: float, long_mm: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Figures of a scan that is as fast as it is taken, of one at a load, and of a longer slide, with their names.

    The load is what the first one takes, of the seconds that the scanner of the second one takes.
    """
    square = Scanner(slide, (side_mm, side_mm))
    scan(Scanner(slide, (3.0, 3.0)), bundle, backend, 0)  # warms up
    fast = scan(square, bundle, backend, 0)
    yield "as fast as it is taken", describe(fast)
    yield f"at a load of {load:g}", describe(scan(square, bundle, backend, (fast.scan_s + fast.finish_s) / load))
    if long_mm:
        yield f"{side_mm:g} x {long_mm:g} mm", describe(scan(Scanner(slide, (side_mm, long_mm)), bundle, backend, 0))


def describe(scanned: Scanned) -> dict[str, Any]:
    """Figures of a scan; lags and times are of each map tile."""
    lags = np.array(scanned.lags) * 1000
    return {
        "scan_s": scanned.scan_s, "finish_s": scanned.finish_s, "waited_s": scanned.waited_s,
        "windows": scanned.windows, "map_tiles": len(lags), "memory_mb": scanned.memory_mb,
        "lag_ms": {f"p{percent}": float(np.percentile(lags, percent)) for percent in (50, 90, 99, 100)},
        "lags_ms": [round(each, 1) for each in lags.tolist()], "times_s": [round(each, 2) for each in scanned.times],
    }  # fmt: skip
