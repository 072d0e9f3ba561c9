"""A slide and a bundle for tiles: what `segmentation` does with the logits of each tile, and what each tile is."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from glassrt.engine.files import output_errors
from glassrt.engine.flow.runner import Sink
from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.maps.canvas import Canvas
from glassrt.engine.results.bag import softmax
from glassrt.engine.results.features import lay_tiles
from glassrt.engine.results.figures import Result
from glassrt.engine.results.tiles import TABLE, count_tiles, write_tiles
from glassrt.engine.runtimes.protocol import Array
from glassrt.engine.tasks.segmentation import SegmentSlide


class LogitSink:
    """Takes the logits of tiles `[n, C]`: keeps them, and hands them to the map."""

    def __init__(self, canvas: Canvas, tiles: int, classes: int) -> None:
        self.logits = np.zeros((tiles, classes), np.float32)
        self.known = np.zeros(tiles, np.bool_)
        self._canvas = canvas

    def add(self, indices: Indices, outputs: Mapping[str, Array]) -> None:
        """As `Sink.add`; the single output may have any name."""
        (logits,) = outputs.values()
        self.logits[indices], self.known[indices] = logits, True
        self._canvas.add(indices, {"logits": logits[:, :, None, None]})

    def drop(self, indices: Indices) -> None:
        """As `Sink.drop`."""
        self._canvas.drop(indices)

    def finish(self) -> None:
        """As `Sink.finish`."""
        self._canvas.finish()


class ClassifySlide(SegmentSlide):
    """As `SegmentSlide`, and writes `tiles.csv` too."""

    _sink: LogitSink

    def run(self, folder: Path, out: Path) -> Result:
        result = super().run(folder, out)
        manifest = self._work.bundle.segmentation
        tiles = lay_tiles(self._work.slide, self._windows, manifest.mpp, manifest.stride)
        known = self._sink.known
        probabilities = softmax(self._sink.logits[known]).astype(np.float32)
        with self._work.watch.clock.time("write"), output_errors(out, folder):
            write_tiles(folder / TABLE, tiles.corners[known], probabilities, manifest.classes)
        found = count_tiles(probabilities, manifest.classes) if len(probabilities) else None
        return msgspec.structs.replace(result, tiles=found)

    def _collect(self, canvas: Canvas) -> Sink:
        self._sink = LogitSink(canvas, len(self._windows.windows), len(self._work.bundle.segmentation.classes))
        return self._sink
