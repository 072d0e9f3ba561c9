"""A slide and a segmentation bundle: tissue, windows, map, files and figures."""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import SlideError, UsageError
from glassrt.engine.files import output_errors
from glassrt.engine.flow.runner import Sink
from glassrt.engine.maps.canvas import Canvas, Tile
from glassrt.engine.maps.evidence import Evidence
from glassrt.engine.maps.mapfile import MapFile, MapWriter
from glassrt.engine.maps.regions import find_regions
from glassrt.engine.results.figures import Result, physical_mpp, summarise
from glassrt.engine.results.geojson import write_regions, write_shapes
from glassrt.engine.results.ometiff import Encoded, write_map
from glassrt.engine.results.overlay import draw_box, draw_picture, write_png
from glassrt.engine.slides.frames import shown_part
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.slide import Pixels, Slide
from glassrt.engine.slides.tissue.scope import find_scope
from glassrt.engine.tasks.segment import lay_windows, segment
from glassrt.engine.tasks.work import Work

COARSEST_RATIO = 4.0  # a slide coarser than this many times the bundle's mpp shows none of what it learned
MAP_PIXELS_PER_LOGIT = 4  # of the default map: finer than the network sees, coarse enough to store
COARSE = 1.5  # logits to a side of a map's pixel, beyond which its areas are others


class SegmentSlide:
    """What is done to one slide. Making it looks the slide over; raises SlideError or UsageError."""

    def __init__(self, work: Work) -> None:
        self._work = work
        slide, bundle = work.slide, work.bundle
        self._grid = open_grid(slide, bundle)
        self._map_size = choose_map_size(self._grid, bundle, work.request.map_mpp)
        with work.watch.clock.time("tissue"):
            scope = find_scope(
                slide, work.tissue, work.readers, bundle.example_window, bundle.manifest.name, work.overview
            )
            self._scope = scope.warn(*doubt_map(slide, bundle, self._map_size))
        self._windows = lay_windows(self._grid, bundle, self._scope.searched)

    def run(self, folder: Path, out: Path) -> Result:
        """Write the map, the regions and the picture into `folder`, of which messages say `out`; return the figures."""
        work, (width, height) = self._work, self._map_size
        writing = output_errors(out)  # whatever fails beyond it is reading
        manifest = work.bundle.segmentation
        with MapFile(folder / "map.raw", len(manifest.classes), height, width, manifest.contoured) as map_file:
            writer, evidence = MapWriter(map_file, self._scope.tissue), self._gather_evidence()
            place, size = follow(writing(writer.place), evidence), self._map_size
            segment(
                self._grid,
                self._windows,
                work.bundle,
                work.backend,
                size,
                place,
                work.readers,
                work.watch,
                self._collect,
            )
            writing(writer.finish)()
            with work.watch.clock.time("write"), output_errors(out):
                counts = write_outputs(folder, work.slide, work.bundle, map_file, self._scope.thumbnail)
        return summarise(
            work.slide,
            work.bundle,
            work.backend,
            self._scope,
            self._windows,
            writer,
            counts,
            work.watch.clock,
            work.request.digest,
            evidence.scores() if evidence else None,
        )

    def _collect(self, canvas: Canvas) -> Sink:
        """What takes the network's outputs: the canvas, which is made of logits."""
        return canvas

    def _gather_evidence(self) -> Evidence | None:
        """What pools the slide's scores, if the bundle asks for them."""
        manifest = self._work.bundle.segmentation
        if not manifest.slide_scores:
            return None
        return Evidence(manifest.suspected, manifest.slide_scores.eta, self._scope.tissue, self._map_size)


def follow(place: Callable[[Tile], None], evidence: Evidence | None) -> Callable[[Tile], None]:
    """What places a tile, then lets its evidence be pooled, if any is."""

    def both(tile: Tile) -> None:
        place(tile)
        if evidence:
            evidence.place(tile)

    return both


def open_grid(slide: Slide, bundle: Bundle) -> GridReader:
    """The slide at the bundle's resolution; SlideError when it is far too coarse for it."""
    mpp = bundle.manifest.mpp
    if slide.mpp > COARSEST_RATIO * mpp:
        raise SlideError(
            f"{slide.name}: {slide.mpp:g} micrometres per pixel is too coarse for a bundle made for {mpp:g}; "
            "scan at a higher magnification, or pass --mpp if the file is wrong"
        )
    return GridReader(slide, mpp)


def choose_map_size(grid: GridReader, bundle: Bundle, map_mpp: float | None) -> tuple[int, int]:
    """(width, height) of the map for its pixel size."""
    grid_mpp = physical_mpp(grid.slide, grid.width, grid.height)
    if map_mpp is None:
        map_mpp = grid_mpp * max(1, bundle.segmentation.output_stride / MAP_PIXELS_PER_LOGIT)
    if math.isinf(map_mpp):
        raise UsageError(f"--map-mpp {map_mpp:g}: expected micrometres per pixel")
    if not map_mpp >= 0.999 * min(grid_mpp, bundle.manifest.mpp):  # so that NaN is refused too
        raise UsageError(f"--map-mpp {map_mpp:g} is finer than the bundle's {bundle.manifest.mpp:g}: nothing to gain")
    ratio = grid_mpp / map_mpp
    return max(1, math.floor(grid.width * ratio + 0.5)), max(1, math.floor(grid.height * ratio + 0.5))


def doubt_map(slide: Slide, bundle: Bundle, map_size: tuple[int, int]) -> Iterator[str]:
    """A line on a map so coarse that its areas are not those that the network told apart."""
    map_mpp, logit_mpp = physical_mpp(slide, *map_size), bundle.manifest.mpp * bundle.segmentation.output_stride
    if map_mpp > COARSE * logit_mpp:
        yield (
            f"areas and regions are those of map pixels of {map_mpp:.3g} micrometres, where the network tells "
            f"{logit_mpp:.3g} apart: a finer --map-mpp gives truer ones"
        )


class Prepared(NamedTuple):
    """What of a map's files was made while it grew: its tiles, encoded, and the shapes of its regions with their
    classes and first corners, in the order of `find_regions`.
    """

    encoded: Encoded
    shapes: Iterable[tuple[int, list[float], dict[str, Any]]]


def write_outputs(
    folder: Path, slide: Slide, bundle: Bundle, map_file: MapFile, thumbnail: Pixels, prepared: Prepared | None = None
) -> list[int]:
    """Write map, regions and overlay; returns the number of regions of each class."""
    classes = bundle.segmentation.classes
    map_mpp = physical_mpp(slide, map_file.width, map_file.height)
    base_width, base_height = slide.levels[0].size
    to_base = (base_width / map_file.width, base_height / map_file.height)
    shown = shown_part(slide)
    with ThreadPoolExecutor(1, thread_name_prefix="writer") as pool:
        picture = draw_picture(thumbnail, map_file, bundle.segmentation)
        if slide.bounds is not None:
            draw_box(picture, slide.bounds, slide.levels[0].size)
        overlay = pool.submit(write_png, folder / "overlay.png", picture)
        write_map(
            folder / "map.ome.tif", map_file, classes, map_mpp, (-shown.left * slide.mpp, -shown.top * slide.mpp),
            prepared.encoded if prepared else None,
        )  # fmt: skip
        path = folder / "regions.geojson"
        if prepared:
            counts = write_shapes(path, prepared.shapes, classes)
        else:
            regions = find_regions(map_file, map_mpp, bundle.segmentation.smallest_region_um2)
            counts = write_regions(path, regions, classes, to_base, (shown.left, shown.top))
        overlay.result()
    return counts
