"""A slide's tiles and an encoder: their features in one file, in the layout of the tool that reads them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.kinds.encoder import Encoder
from glassrt.engine.bundles.kinds.mil import Mil
from glassrt.engine.errors import SlideError, UsageError
from glassrt.engine.files import output_errors, replace_file
from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.results.features import MPP_AT_1X, Layout, lay_tiles, refuse_other, write_features
from glassrt.engine.runtimes.protocol import Array, Backend
from glassrt.engine.slides.slide import Slide
from glassrt.engine.slides.tissue.annotations import AUTO
from glassrt.engine.slides.tissue.scope import Tissue, find_scope
from glassrt.engine.tasks.segment import DEFAULT_READERS, choose_runner, lay_windows
from glassrt.engine.tasks.segmentation import open_grid
from glassrt.engine.watch import Watch


class Embedded(NamedTuple):
    """What was written of a slide: how many tiles have features in the file at `path`, and what makes them doubtful."""

    path: Path
    tiles: int
    warnings: tuple[str, ...]


class FeatureSink:
    """Hands the features of tiles on, and nothing else that the network gives."""

    def __init__(self, store: Callable[[Indices, NDArray[np.float32]], None]) -> None:
        self._store = store

    def add(self, indices: Indices, outputs: Mapping[str, Array]) -> None:
        """As `Sink.add`; an encoder's single output may have any name."""
        (features,) = outputs.values() if len(outputs) == 1 else (outputs["features"],)
        self._store(indices, features)

    def drop(self, indices: Indices) -> None:
        """As `Sink.drop`."""

    def finish(self) -> None:
        """As `Sink.finish`."""


def find_encoder(bundle: Bundle) -> Encoder | Mil:
    """The manifest of a bundle with an encoder. Raises UsageError for another."""
    manifest = bundle.manifest
    if isinstance(manifest, Encoder) or (isinstance(manifest, Mil) and manifest.takes == "tiles"):
        return manifest
    raise UsageError(
        f"{bundle.path} is of the kind {manifest.kind} and has no encoder of tiles: name a bundle of the kind "
        "encoder or mil"
    )


def place_file(out: Path, layout: Layout, name: str, bundle: Bundle) -> Path:
    """Where in the folder `out` a tool looks for the features of the slide `name`."""
    made = find_encoder(bundle)
    if layout == "trident":
        tiles = f"{round(MPP_AT_1X / made.mpp)}x_{made.window}px_{made.window - made.stride}px_overlap"
        return out / tiles / f"features_{made.name}" / f"{name}.h5"
    return out / "h5_files" / f"{name}.h5" if layout == "clam" else out / f"{name}.h5"


def embed(
    slide: Slide,
    bundle: Bundle,
    path: Path,
    backend: Backend,
    layout: Layout = "trident",
    half: bool = False,
    tissue: Tissue = AUTO,
    readers: int = DEFAULT_READERS,
    watch: Watch | None = None,
) -> Embedded:
    """Write the features of a slide's tiles to the file at `path`, which appears whole or not at all.

    `layout` is that of the tool that is to read it (see `results/features.py`), `half` stores float16, `tissue` is as
    of `score`: tiles that touch it are embedded. Raises SlideError, also where there is no tissue, BackendUnavailable,
    OutputError, FolderTaken where something else stands at `path`, or UsageError.
    """
    made = find_encoder(bundle)
    refuse_other(path, slide.path, made.name)
    grid = open_grid(slide, bundle)
    scope = find_scope(slide, tissue, readers, bundle.example_window, made.name)
    windows = lay_windows(grid, bundle, scope.searched)
    if not len(windows.windows):
        raise SlideError(f"{slide.name}: no tissue found, so there is nothing to embed")
    tiles = lay_tiles(slide, windows, made.mpp, made.stride)
    with (
        replace_file(path) as beside,
        output_errors(path, beside),
        write_features(beside, layout, slide, tiles, made.features, made.name, half) as file,
    ):
        choose_runner(backend, readers).run(grid, windows, FeatureSink(file.write), watch or Watch())
    return Embedded(path, len(windows.windows), scope.warnings)
