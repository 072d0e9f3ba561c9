"""Features of a slide's tiles, from file to file: GlassRT beside the loop of torch that others run, and beside what its
own encoder does on tiles that lie in memory.

The loop is that of TRIDENT and its like: a data loader whose workers read each tile through OpenSlide, the encoder in
torch on batches, one HDF5 file at the end. Both have the same encoder, tiles and cores.
"""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import h5py
import numpy as np
import openslide
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from glassrt.benchmarks.machine import write_report
from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import GlassError, UsageError
from glassrt.engine.flow.cut import Batch, cut_batches
from glassrt.engine.flow.host import infer_batches
from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.runtimes.isa import count_cores
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.slide import Slide
from glassrt.engine.slides.tissue.annotations import ALL
from glassrt.engine.tasks.segment import DEFAULT_READERS, lay_windows
from glassrt.engine.tasks.segmentation import open_grid
from glassrt.engine.tasks.tiles import embed
from glassrt.engine.watch import Clock
from glassrt.export.bundle import export_made
from glassrt.export.kinds import encoder as kind

BATCH = 32  # of torch's loop
LEAST_COSINE = 0.999  # of features that are to be the same
Features = NDArray[np.float32]


class Tiles(Dataset[Tensor]):
    """The tiles of a slide at level 0, as OpenSlide reads them: `[3, side, side]` uint8."""

    def __init__(self, path: Path, corners: Indices, side: int) -> None:
        self._path, self._corners, self._side = path, corners, side
        self._slide: openslide.OpenSlide | None = None

    def __len__(self) -> int:
        return len(self._corners)

    def __getitem__(self, index: int) -> Tensor:
        if self._slide is None:  # in the worker, which cannot share an open file
            self._slide = openslide.OpenSlide(self._path)
        x, y = self._corners[index].tolist()
        region = self._slide.read_region((x, y), 0, (self._side, self._side)).convert("RGB")
        return torch.from_numpy(np.array(region)).permute(2, 0, 1)


class Loop(NamedTuple):
    """Torch's loop over tiles of a slide: the encoder, the tiles' corners and side, and how many workers read."""

    path: Path
    network: nn.Module
    corners: Indices
    side: int
    workers: int

    def run(self, out: Path) -> None:
        """Write the features of all tiles."""
        tiles = Tiles(self.path, self.corners, self.side)
        parts = []
        with torch.inference_mode():
            for batch in DataLoader(tiles, BATCH, num_workers=self.workers):
                given = batch.float().contiguous(memory_format=torch.channels_last)
                parts.append(self.network(given).numpy())
        with h5py.File(out, "w") as file:
            file["features"], file["coords"] = np.concatenate(parts), self.corners


def measure_embedding(
    path: Path,
    encoder: str,
    weights: str,
    window: int,
    rounds: int,
    report_file: Path | None,
    progress: Callable[[str], None] = lambda name: None,
    loops: bool = True,
) -> dict[str, Any]:
    """Tiles a second of each contender and of the encoder alone, by turns, over all of a slide at its own resolution;
    without `loops` of GlassRT and the encoder, as for slides that torch would take minutes for.

    Raises UsageError for a slide that OpenSlide does not open, GlassError where features differ.
    """
    refuse_unknown(path)
    with tempfile.TemporaryDirectory() as held, open_slide(path) as slide:
        out, network = Path(held, "features.h5"), kind.build(encoder, weights, "encoder", slide.mpp, window)
        bundle = export_made(network, encoder, Path(held, "encoder.glass"))
        with closing(open_backend(bundle, throughput=True)) as backend:
            ours = f"GlassRT embed, {backend.name} {backend.precision}"
            runs: dict[str, Callable[[Path], object]] = {ours: partial(embed_whole, path, bundle, backend)}
            embed_whole(path, bundle, backend, out)
            exact, corners = read(out)
            torch.set_num_threads(count_cores())
            plain = network.networks["main"].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            whole = (corners + window <= slide.levels[0].size).all(1)  # others fill up the rest as they see fit
            cosines = {}
            for workers in sorted({0, 1, count_cores()}) if loops else ():
                loop = Loop(path, plain, corners, window, workers)
                name = f"torch and OpenSlide, {workers or 'no'} workers"
                progress(f"{name}: features")
                loop.run(out)
                cosines[name] = compare(name, read(out)[0][whole], exact[whole])
                runs[name] = loop.run
            tiles = cut_tiles(slide, bundle, backend)
            runs["the encoder alone"] = lambda out: infer_all(backend, tiles)
            seconds: dict[str, list[float]] = {name: [] for name in runs}
            for number in range(rounds):
                for name, run in runs.items():
                    progress(f"round {number + 1} of {rounds}: {name}")
                    seconds[name].append(time_run(run, out))
    others = [each for name, each in seconds.items() if name in cosines]
    report = {
        "slide": path.name,
        "encoder": {"name": encoder, "weights": Path(weights).name, "window": window, "batch": backend.batch},
        "tiles": len(corners),
        "rows": [
            {
                "name": name,
                "tiles_per_s": len(corners) / median(each),
                "lowest_cosine": cosines.get(name),
                "unit": "s",
                "runs": each,
            }
            for name, each in seconds.items()
        ],
        # Medians of the rounds' own ratios, so that a machine whose speed drifts does not count.
        "share_of_encoder": median(map(truediv, seconds["the encoder alone"], seconds[ours])),
        "times_fastest_loop": median(map(truediv, map(min, zip(*others, strict=True)), seconds[ours]))
        if loops
        else None,
    }
    write_report(report_file, report)
    return report


def refuse_unknown(path: Path) -> None:
    """Raise UsageError for a slide that the loop could not read."""
    try:
        openslide.OpenSlide(path).close()
    except (openslide.OpenSlideError, OSError) as error:
        raise UsageError(f"{path}: torch's loop reads through OpenSlide, which does not open it") from error


def embed_whole(path: Path, bundle: Bundle, backend: Backend, out: Path) -> None:
    """Every tile of a slide, from file to file."""
    out.unlink(missing_ok=True)
    with open_slide(path) as slide:
        embed(slide, bundle, out, backend, tissue=ALL)


def read(path: Path) -> tuple[Features, Indices]:
    """The features and corners in a file."""
    with h5py.File(path) as file:
        return file["features"][:], file["coords"][:].astype(np.int64)


def compare(name: str, found: Features, wanted: Features) -> float:
    """The lowest cosine of features with those that are wanted. Raises GlassError if they are others."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    lowest = float(((found * wanted).sum(1) / norms).min())
    if not lowest >= LEAST_COSINE:
        raise GlassError(f"{name}: a tile's features have a cosine of {lowest:.5f} with GlassRT's: not the same work")
    return lowest


def cut_tiles(slide: Slide, bundle: Bundle, backend: Backend) -> list[tuple[Indices, Batch]]:
    """All tiles in memory, as the network takes them."""
    grid = open_grid(slide, bundle)
    with ThreadPoolExecutor(DEFAULT_READERS) as pool:
        return list(cut_batches(grid, lay_windows(grid, bundle), backend.batch, pool, DEFAULT_READERS, Clock()))


def infer_all(backend: Backend, tiles: list[tuple[Indices, Batch]]) -> None:
    """The encoder alone."""
    with ThreadPoolExecutor(backend.streams) as pool:
        for _ in infer_batches(backend, tiles, pool, Clock()):
            pass


def time_run(run: Callable[[Path], object], out: Path) -> float:
    """Seconds of one run."""
    begun = time.perf_counter()
    run(out)
    return time.perf_counter() - begun
