"""The map of a slide that is being scanned: tiles and regions as they are finished, the usual files in the end."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import GlassError, first_line
from glassrt.engine.flow.arriving import Came
from glassrt.engine.geometry.boxes import Indices, Size
from glassrt.engine.geometry.coverage import holds_tissue
from glassrt.engine.geometry.plan import Plan
from glassrt.engine.maps.canvas import TILE, Tile
from glassrt.engine.maps.evidence import Evidence
from glassrt.engine.maps.growing import GrowingRegions, Place
from glassrt.engine.maps.mapfile import MapFile, blank, paint
from glassrt.engine.maps.regions import Region
from glassrt.engine.maps.scattered import ScatteredCanvas, ScatteredWriter
from glassrt.engine.results.figures import physical_mpp
from glassrt.engine.results.geojson import describe_shape
from glassrt.engine.results.ometiff import encode_tile
from glassrt.engine.slides.frames import shown_part
from glassrt.engine.slides.push import PushSlide
from glassrt.engine.slides.slide import Pixels
from glassrt.engine.slides.tissue.density import least, measure_density, measure_stain
from glassrt.engine.slides.tissue.tissue import FAINTEST_COLOUR
from glassrt.engine.tasks.segmentation import Prepared
from glassrt.engine.tasks.spill import Spill

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


class Busy(GlassError):
    """So many windows wait that a tile was not taken: push it again."""


class Cancelled(GlassError):
    """The session was cancelled."""


class Failed(GlassError):
    """Something went wrong in the session that users cannot mend, or in a listener."""


class Progress(NamedTuple):
    """Tiles that were taken, windows and map tiles that are done and how many there will be, windows that wait."""

    tiles: int
    windows: int
    windows_known: int
    map_tiles: int
    map_tiles_known: int
    backlog: int


def as_told(error: BaseException, name: str) -> GlassError:
    """The same in one line, for a further time that it is raised."""
    if isinstance(error, GlassError):
        again = type(error)(*error.args)
        again.__cause__ = error
        return again
    failed = Failed(f"{name}: the session has failed: {first_line(error)}")
    failed.__cause__ = error
    return failed


class Callbacks(NamedTuple):
    """Who is told of map tiles, and of regions with their GeoJSON features, whose ids the finished file gives."""

    on_map: Callable[[MapTile], None]
    on_region: Callable[[Region, str], None]
    lock: AbstractContextManager[object] = nullcontext()  # held meanwhile, so that one is told at a time


class ScanMap:
    """Takes what the network gives for windows in any order. `tissue` is the mask that figures refer to."""

    def __init__(
        self, folder: Path, slide: PushSlide, bundle: Bundle, plan: Plan, map_size: Size, tissue: NDArray[np.bool_],
        callbacks: Callbacks, arrived: Callable[[Indices], float], later: Callable[[Callable[[], None]], None],
    ) -> None:  # fmt: skip
        manifest = bundle.segmentation
        self._slide, self._bundle, self._callbacks, self._arrived = slide, bundle, callbacks, arrived
        self._later = later
        self.plan = plan
        folder.mkdir()
        self._folder = folder
        self.file = MapFile(folder / "map.raw", len(manifest.classes), *map_size[::-1], manifest.contoured)
        self.writer = ScatteredWriter(self.file, tissue)
        scores = manifest.slide_scores
        self.evidence = Evidence(manifest.suspected, scores.eta, tissue, map_size) if scores else None
        self._tiles, self._shapes = (Spill(folder / f"{name}.raw") for name in ("tiles", "shapes"))
        self._canvas = ScatteredCanvas(plan, manifest.output_stride, map_size, self._place, manifest.contoured)
        expected = self._canvas.tiles > 0
        self._regions = GrowingRegions(
            self.file, physical_mpp(slide, *map_size), bundle.segmentation.smallest_region_um2, expected
        )
        self.done, self.expected = 0, int(expected.sum())

    def compare(self, index: int, logits: Floats) -> Floats:
        """As `Canvas.compare`."""
        return self._canvas.compare(index, logits)

    def read(self, content: bytes) -> Floats:
        """What `compare` kept, from its bytes."""
        side = self.plan.window // self._bundle.segmentation.output_stride
        return np.frombuffer(content, np.float32).reshape(-1, side, side)

    def put(self, index: int, held: Floats | None) -> None:
        """Take what `compare` keeps of a window, or None to go without it."""
        self._canvas.put(index, held)

    def _place(self, tile: Tile | None, place: Place, indices: Indices) -> None:
        painted = None if tile is None else self._tell(tile, indices)
        self._later(lambda: self._keep(tile, painted, place))

    def _keep(self, tile: Tile | None, painted: NDArray[np.uint8] | None, place: Place) -> None:
        """Write a tile, and tell of the regions that are whole now."""
        if tile is not None and painted is not None:
            self.writer.place(tile, painted)
            if self.evidence:
                self.evidence.place(tile)
            for plane, pixels in enumerate(painted[: self.file.classes]):
                self._tiles.put((plane, *place), encode_tile(pixels))
        self.done += 1
        for region, key in self._regions.add(place, painted):
            shape, first = self._describe(region), region.rings[0][0].tolist()
            self._shapes.put(key, msgspec.json.encode([region.class_index, first, *shape.values()]))
            with self._callbacks.lock:
                self._callbacks.on_region(region, msgspec.json.encode({"type": "Feature", **shape}).decode())

    def _tell(self, tile: Tile, indices: Indices) -> NDArray[np.uint8]:
        """A tile as the file will hold it; who waits for it is told before it is written."""
        painted = paint(tile)
        painted.setflags(write=False)  # it is not written yet
        lag_s = time.perf_counter() - self._arrived(indices)
        with self._callbacks.lock:
            self._callbacks.on_map(MapTile(tile.left, tile.top, painted[0], painted[1 : self.file.classes], lag_s))
        return painted

    def _describe(self, region: Region) -> dict[str, Any]:
        shown, (width, height) = shown_part(self._slide), self._slide.levels[0].size
        to_base = (width / self.file.width, height / self.file.height)
        info = self._bundle.segmentation.classes[region.class_index]
        return describe_shape(region, info, to_base, (shown.left, shown.top))

    def prepare(self) -> Prepared:
        """What `write_outputs` needs not do again."""
        blanks = [encode_tile(blank(1, TILE, TILE)[0]), encode_tile(np.zeros((TILE, TILE), np.uint8))]

        def encoded(plane: int, row: int, column: int) -> bytes:
            if (plane, row, column) in self._tiles:
                return self._tiles.get((plane, row, column))
            inner = blank(1, min(TILE, self.file.height - row * TILE), min(TILE, self.file.width - column * TILE))[0]
            return blanks[1] if plane else blanks[0] if inner.shape == (TILE, TILE) else encode_tile(inner)

        return Prepared(encoded, (Shape.read(self._shapes.get(key)) for key in sorted(self._shapes)))

    def close(self) -> None:
        """Delete its files; harmless when done twice."""
        for each in (self.file, self._tiles, self._shapes):
            each.close()
        if self._folder.is_dir():
            self._folder.rmdir()


class Shape(msgspec.Struct, array_like=True):
    """A region of the map: its class, its first corner, and what its feature says."""

    class_index: int
    first: list[float]
    geometry: msgspec.Raw
    properties: msgspec.Raw

    @staticmethod
    def read(content: bytes) -> tuple[int, list[float], dict[str, Any]]:
        """As `write_shapes` takes it."""
        shape = msgspec.json.decode(content, type=Shape)
        return shape.class_index, shape.first, {"geometry": shape.geometry, "properties": shape.properties}


def take(came: Came, scan_map: ScanMap, spill: Spill | None) -> None:
    """Hand on what came of windows, and let it be kept by their numbers."""
    for at, index in enumerate(came.indices.tolist()):
        held = None if came.outputs is None else scan_map.compare(index, came.outputs[at])
        if spill is not None and held is not None:
            spill.put(index, np.ascontiguousarray(held).tobytes())
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
