"""The map of a slide that is being scanned: tiles and regions as they are finished, the usual files in the end."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.flow.arriving import Came
from glassrt.engine.geometry.boxes import Indices, Size
from glassrt.engine.geometry.coverage import holds_tissue
from glassrt.engine.geometry.plan import Plan
from glassrt.engine.maps.canvas import TILE, Tile
from glassrt.engine.maps.evidence import Evidence
from glassrt.engine.maps.growing import GrowingRegions, Place
from glassrt.engine.maps.mapfile import MapFile
from glassrt.engine.maps.regions import Region
from glassrt.engine.maps.scattered import ScatteredCanvas, ScatteredWriter
from glassrt.engine.results.figures import physical_mpp
from glassrt.engine.results.geojson import describe_region
from glassrt.engine.slides.frames import shown_part
from glassrt.engine.slides.push import PushSlide
from glassrt.engine.slides.slide import Pixels
from glassrt.engine.slides.tissue.density import least, measure_density, measure_stain
from glassrt.engine.slides.tissue.tissue import FAINTEST_COLOUR
from glassrt.engine.tasks.segmentation import smallest_region

STAIN_SIDE = 8  # pixels that are averaged before their stain is looked at
DARKEST_GLASS = 190  # levels: what is darker may be tissue without colour

Floats = NDArray[np.float32]


class MapTile(NamedTuple):
    """A finished part of the map, whose first pixel is (left, top) in map pixels: class numbers `[h, w]`, 255 where it
    was not analysed, and round(255 p) `[C - 1, h, w]` of each class but the first. `lag_s` is the time from the last
    slide tile that it needed until now.
    """

    left: int
    top: int
    classes: NDArray[np.uint8]
    probabilities: NDArray[np.uint8]
    lag_s: float


class Callbacks(NamedTuple):
    """Who is told of map tiles, and of regions with their GeoJSON features, whose ids the finished file gives."""

    on_map: Callable[[MapTile], None]
    on_region: Callable[[Region, str], None]


class ScanMap:
    """Takes what the network gives for windows in any order. `tissue` is the mask that figures refer to."""

    def __init__(
        self, folder: Path, slide: PushSlide, bundle: Bundle, plan: Plan, map_size: Size, tissue: NDArray[np.bool_],
        callbacks: Callbacks, arrived: Callable[[Indices], float],
    ) -> None:  # fmt: skip
        manifest = bundle.segmentation
        self._slide, self._bundle, self._callbacks, self._arrived = slide, bundle, callbacks, arrived
        self.plan = plan
        self.file = MapFile(folder / f"map{len(plan.windows)}.raw", len(manifest.classes), map_size[1], map_size[0])
        self.writer = ScatteredWriter(self.file, tissue)
        scores = manifest.slide_scores
        self.evidence = Evidence(manifest.suspected, scores.eta, tissue, map_size) if scores else None
        self._canvas = ScatteredCanvas(plan, manifest.output_stride, map_size, self._place)
        expected = self._canvas.tiles > 0
        self._regions = GrowingRegions(self.file, physical_mpp(slide, *map_size), smallest_region(bundle), expected)
        self.done, self.expected = 0, int(expected.sum())

    def compare(self, index: int, logits: Floats) -> Floats:
        """As `Canvas.compare`."""
        return self._canvas.compare(index, logits)

    def put(self, index: int, held: Floats | None) -> None:
        """Take what `compare` keeps of a window, or None to go without it."""
        self._canvas.put(index, held)

    def _place(self, tile: Tile | None, place: Place, indices: Indices) -> None:
        painted = None
        if tile is not None:
            painted = self.writer.place(tile)
            if self.evidence:
                self.evidence.place(tile)
            lag_s = time.perf_counter() - self._arrived(indices)
            self._callbacks.on_map(MapTile(place[1] * TILE, place[0] * TILE, painted[0], painted[1:], lag_s))
        self.done += 1
        for region in self._regions.add(place, painted):
            self._callbacks.on_region(region, self._describe(region))

    def _describe(self, region: Region) -> str:
        shown, (width, height) = shown_part(self._slide), self._slide.levels[0].size
        to_base = (width / self.file.width, height / self.file.height)
        info = self._bundle.segmentation.classes[region.class_index]
        feature = describe_region(region, info, to_base, (shown.left, shown.top), 0)
        del feature["id"]
        return msgspec.json.encode(feature).decode()


class Spill:
    """What is kept of windows until the slide's tissue is known, on disk: their number grows with the slide."""

    def __init__(self, folder: Path, windows: int) -> None:
        self._path = folder / "windows.raw"
        self._file: Any = self._path.open("w+b")
        self._shape: tuple[int, ...] = ()
        self.known = np.zeros(windows, np.bool_)

    def put(self, index: int, held: Floats | None) -> None:
        """Keep a window; None is not known."""
        if held is not None:
            self._shape = held.shape
            self._file.seek(index * held.nbytes)
            self._file.write(np.ascontiguousarray(held).tobytes())
            self.known[index] = True

    def get(self, index: int) -> Floats:
        """A window that was kept."""
        size = int(np.prod(self._shape)) * 4
        self._file.seek(index * size)
        return np.frombuffer(self._file.read(size), np.float32).reshape(self._shape)

    def close(self) -> None:
        """Delete the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def take(came: Came, scan_map: ScanMap, spill: Spill | None) -> None:
    """Hand on what came of windows."""
    for at, index in enumerate(came.indices.tolist()):
        held = None if came.outputs is None else scan_map.compare(index, came.outputs[at])
        if spill is not None:
            spill.put(index, held)
        scan_map.put(index, held)


def choose_windows(plan: Plan, searched: NDArray[np.bool_], known: NDArray[np.bool_]) -> tuple[Plan, Indices]:
    """The plan of those windows that are known and touch the mask, as if it had been known before; and their numbers.

    What a plan with the mask would have, in its order.
    """
    fine = plan.fine
    kept = known & holds_tissue(searched, fine.boxes(fine.windows) / np.array([*fine.size, *fine.size]))
    chosen = np.flatnonzero(kept)
    layer = replace(fine, windows=fine.windows[chosen], cell_of=fine.cell_of[chosen], of=np.arange(len(chosen)))
    return Plan((layer,), plan.skipped + len(kept) - len(chosen)), chosen


def shows_stain(window: Pixels) -> bool:
    """Whether a window holds anything but glass."""
    side = max(1, window.shape[0] // STAIN_SIDE)
    small = cv2.resize(window, (side, side), interpolation=cv2.INTER_AREA)
    return bool((measure_stain(measure_density(small)) > FAINTEST_COLOUR).any() or (least(small) < DARKEST_GLASS).any())  # type: ignore[arg-type]
