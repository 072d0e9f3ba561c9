"""A slide and a bundle for bags: what `segmentation` does with a logit for each tile, and what all tiles together say.

The network runs once over each tile; what it says of the bag is summed as tiles come, in memory that does not grow
with them but for a few numbers each.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.kinds.mil import Mil, beside_background
from glassrt.engine.files import output_errors
from glassrt.engine.flow.bag import open_mean
from glassrt.engine.flow.cut import cut_windows
from glassrt.engine.flow.runner import Sink
from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.maps.canvas import Canvas
from glassrt.engine.results.bag import BagResult, caption_tiles, close_bag, describe_bag, draw_attention, draw_sheet
from glassrt.engine.results.features import Tiles, lay_tiles, write_features
from glassrt.engine.results.figures import Result
from glassrt.engine.results.overlay import write_png
from glassrt.engine.runtimes.protocol import Array
from glassrt.engine.tasks.segmentation import SegmentSlide
from glassrt.engine.tasks.work import Work
from glassrt.engine.watch import Clock

Store = Callable[[Indices, NDArray[np.float32]], None]


class TileSink:
    """Takes what a network gives for tiles: stores their features, adds them to the bag, hands logits to the map."""

    def __init__(self, canvas: Canvas, pooling: str, count: int, store: Store) -> None:
        self.mean = open_mean(pooling)
        self.scores = np.zeros(count, np.float32)
        self.logits: NDArray[np.float32] | None = None
        self._canvas, self._count, self._store = canvas, count, store

    def add(self, indices: Indices, outputs: Mapping[str, Array]) -> None:
        """As `Sink.add`."""
        scores, logits = outputs["scores"], outputs["logits"]
        self._store(indices, outputs["features"])
        self.mean.add(scores, logits)
        if self.logits is None:
            self.logits = np.zeros((self._count, logits.shape[1]), np.float32)
        self.scores[indices], self.logits[indices] = scores, logits
        self._canvas.add(indices, {"logits": beside_background(logits)[:, :, None, None]})

    def drop(self, indices: Indices) -> None:
        """As `Sink.drop`."""
        self._canvas.drop(indices)

    def finish(self) -> None:
        """As `Sink.finish`."""
        self._canvas.finish()


class BagSlide(SegmentSlide):
    """As `SegmentSlide`, and writes `features.h5`, `attention.png` and `top_tiles.png` too."""

    def __init__(self, work: Work) -> None:
        manifest = work.bundle.manifest
        assert isinstance(manifest, Mil)
        self._manifest = manifest
        self._sink: TileSink | None = None
        self._store: Store | None = None
        super().__init__(work)

    def run(self, folder: Path, out: Path) -> Result:
        slide, manifest = self._work.slide, self._manifest
        tiles = lay_tiles(slide, self._windows, manifest.mpp, manifest.stride)
        stored = write_features(folder / "features.h5", "trident", slide, tiles, manifest.features, manifest.name)
        with output_errors(out, folder), stored as file:
            self._store = file.write
            result = super().run(folder, out)
        with self._work.watch.clock.time("write"), output_errors(out, folder):
            return msgspec.structs.replace(result, bag=self._write_bag(folder, tiles))

    def _collect(self, canvas: Canvas) -> Sink:
        assert self._store is not None
        self._sink = TileSink(canvas, self._manifest.pooling, len(self._windows.windows), self._store)
        return self._sink

    def _write_bag(self, folder: Path, tiles: Tiles) -> BagResult | None:
        """Write the pictures and return the figures; none of a slide without tiles."""
        sink, manifest = self._sink, self._manifest
        if sink is None or sink.logits is None:
            return None
        bag = close_bag(sink.mean, sink.scores, sink.logits)
        found = describe_bag(bag, tiles.corners, manifest)
        picture = draw_attention(self._scope.thumbnail, self._windows, manifest.stride, bag.attention)
        write_png(folder / "attention.png", picture)
        first = bag.order(manifest.suspected)[: len(found.top)]
        shown = cut_windows(self._grid, self._windows, first, Clock())["tile"]
        sheet = draw_sheet(list(shown), caption_tiles(found, manifest.classes[manifest.suspected].name))
        write_png(folder / "top_tiles.png", sheet)
        return found
