"""Many slides into files of features: each on its own."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.files import prepare_folder
from glassrt.engine.production.names import check_names, check_series
from glassrt.engine.production.scoring import Fault, attempt
from glassrt.engine.results.features import Layout, refuse_other
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.tissue.annotations import AUTO, check_tissue, choose_mask
from glassrt.engine.tasks.segment import DEFAULT_READERS
from glassrt.engine.tasks.tiles import Embedded, embed, find_encoder, place_file
from glassrt.engine.watch import Progress, Watch

Start = Callable[[Path], Progress]


@dataclass(frozen=True)
class EmbedJob:
    """How every slide is embedded, into files of `layout` in the folder `out`; the rest is as of `batch.Job`."""

    bundle: Bundle
    backend: Backend
    out: Path
    layout: Layout = "trident"
    half: bool = False
    mpp: float | None = None
    readers: int = DEFAULT_READERS
    tissue: str = AUTO

    def file(self, path: Path) -> Path:
        """Where the features of the slide at `path` go. Raises UsageError for a bundle without an encoder."""
        return place_file(self.out, self.layout, path.stem, self.bundle)


class EmbedOutcome(NamedTuple):
    """What became of one slide: what was written of it, or the one line that says why nothing was; and how long."""

    path: Path
    embedded: Embedded | None
    error: str
    seconds: float


def embed_batch(paths: Sequence[Path], job: EmbedJob, start: Start) -> list[EmbedOutcome]:
    """Embed every slide; one that fails does not stop the rest.

    `start(path)` is called before each slide and returns its progress callback. Raises, before any work, UsageError
    when two slides would share a file or the bundle has no encoder, and FolderTaken when one would replace what is not
    its own; and OutputError when files cannot be written.
    """
    check_names(paths)
    check_series(paths)
    check_tissue(job.tissue, paths)
    encoder = find_encoder(job.bundle).name
    for folder in {job.file(path).parent for path in paths}:
        prepare_folder(folder)
    for path in paths:
        refuse_other(job.file(path), path, encoder)
    return [embed_path(path, job, start(path)) for path in paths]


def embed_path(path: Path, job: EmbedJob, progress: Progress) -> EmbedOutcome:
    """Embed one slide and turn whatever goes wrong with it into an outcome."""

    def work() -> Embedded:
        with open_slide(path, job.mpp) as slide:
            tissue, watch = choose_mask(job.tissue, path), Watch(progress)
            return embed(
                slide, job.bundle, job.file(path), job.backend, job.layout, job.half, tissue, job.readers, watch
            )

    begun = time.perf_counter()
    found = attempt(path, work)
    seconds = time.perf_counter() - begun
    if isinstance(found, Fault):
        return EmbedOutcome(path, None, found.error, seconds)
    return EmbedOutcome(path, found, "", seconds)
