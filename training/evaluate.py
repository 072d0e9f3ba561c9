"""Scores of a bundle on a labelled set, through the engine that serves it. No torch."""

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import DatasetError
from glassrt.engine.runtimes.protocol import Backend
from glassrt.training.datasets import bach, mosaic
from glassrt.training.evaluations import glas, slides

Score: TypeAlias = Callable[
    [Bundle, Backend, Path, str, Callable[[int, int], None], Collection[Path]], tuple[dict[str, float], int]
]


class ScoredSet(NamedTuple):
    """How a set is scored, the split that published scores are of, and what is counted in it."""

    score: Score
    test_split: str
    unit: str


SETS = {
    "glas": ScoredSet(glas.score, "testA", "images"),
    "bach": ScoredSet(partial(slides.score, bach, "BACH"), "test", "slides"),
    "mosaic": ScoredSet(partial(slides.score, mosaic, "a mosaic"), "test", "slides"),
}


def find_set(dataset: str) -> ScoredSet:
    """The set of that name. Raises DatasetError."""
    if dataset not in SETS:
        raise DatasetError(f"--dataset {dataset} is not known; choose {', '.join(SETS)}")
    return SETS[dataset]


def evaluate(
    bundle: Bundle,
    backend: Backend,
    dataset: str,
    data: Path,
    split: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    left_out: Collection[Path] = (),
) -> dict[str, Any]:
    """A bundle's scores on a split of a set, its test split unless another is named, in percent, and what they are of.

    `progress` is called with images or slides done and in all; the files `left_out` are not scored. Raises DatasetError
    or SlideError.
    """
    found = find_set(dataset)
    split = found.test_split if split is None else split
    scores, images = found.score(bundle, backend, data, split, progress, left_out)
    return {
        "dataset": dataset,
        "split": split,
        "images": images,
        "bundle": {"name": bundle.manifest.name, "sha256": bundle.sha256},
        "scales": bundle.manifest.scales,
        "flips": bundle.manifest.flips,
        "backend": f"{backend.name} {backend.version} on {backend.device}, {backend.precision}",
        "scores": {name: round(100 * value, 3) for name, value in scores.items()},
    }
