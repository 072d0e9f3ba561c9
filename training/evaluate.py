"""Scores of a bundle on a labelled set, through the engine that serves it. No torch."""

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import DatasetError, UsageError
from glassrt.engine.runtimes.protocol import Backend
from glassrt.training.datasets import (
    bach,
    camelyon16,
    crchisto,
    kather,
    labelled_patches,
    mosaic,
    nuclei,
    pcam,
    ucsb,
    weak_mosaic,
)
from glassrt.training.datasets import weak as own
from glassrt.training.datasets.weak import LABELS
from glassrt.training.evaluations import bags, glas, patches, slides, weak

# (bundle, backend, data, split, progress, left_out) -> scores and what was counted; `plots` too where there are curves
Score: TypeAlias = Callable[..., tuple[dict[str, float], int]]


class ScoredSet(NamedTuple):
    """How a set is scored, the split that published scores are of, what is counted in it, and if curves are drawn."""

    score: Score
    test_split: str
    unit: str
    curves: bool = False


ANY_FOLD = ""  # which is none: another than the bundle left out would be what it learned from
SETS = {
    "glas": ScoredSet(glas.score, "testA", "images"),
    "bach": ScoredSet(partial(slides.score, bach, "BACH"), "test", "slides"),
    "mosaic": ScoredSet(partial(slides.score, mosaic, "a mosaic"), "test", "slides"),
    "camelyon16": ScoredSet(partial(weak.score, camelyon16, "CAMELYON16"), "test", "slides", curves=True),
    "crchisto": ScoredSet(partial(bags.score, crchisto), ANY_FOLD, "bags"),
    "ucsb": ScoredSet(partial(bags.score, ucsb), ANY_FOLD, "bags"),
    "mnist-bags": ScoredSet(bags.score_digits, "10", "bags"),
    "kather": ScoredSet(partial(patches.score, kather), "test", "patches"),
    "pcam": ScoredSet(partial(patches.score, pcam), "test", "patches"),
    "nuclei": ScoredSet(partial(patches.score, nuclei), "test", "patches"),
    "folders": ScoredSet(partial(patches.score, labelled_patches), "test", "patches"),
    "features": ScoredSet(bags.score_features, ANY_FOLD, "slides"),
    "labels": ScoredSet(partial(weak.score, own, "a set of labelled slides"), "test", "slides", curves=True),
}
WEAK_MOSAIC = ScoredSet(partial(weak.score, weak_mosaic, "a weak mosaic"), "test", "slides", curves=True)


def find_set(dataset: str, data: Path) -> ScoredSet:
    """The set of that name; mosaics are weak where the folder `data` has labels of slides. Raises DatasetError."""
    if dataset not in SETS:
        raise DatasetError(f"--dataset {dataset} is not known; choose {', '.join(SETS)}")
    return WEAK_MOSAIC if dataset == "mosaic" and (data / LABELS).is_file() else SETS[dataset]


def evaluate(
    bundle: Bundle,
    backend: Backend,
    dataset: str,
    data: Path,
    split: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    left_out: Collection[Path] = (),
    plots: Path | None = None,
) -> dict[str, Any]:
    """A bundle's scores on a split of a set, its test split unless another is named, in percent, and what they are of.

    `progress` is called with images or slides done and in all; the files `left_out` are not scored. Curves are drawn
    into the folder `plots`. A score that is not defined is NaN. Raises DatasetError, SlideError, OutputError, or
    UsageError for plots of a set that has no curves.
    """
    found = find_set(dataset, data)
    if plots is not None and not found.curves:
        raise UsageError(f"--plots: {dataset} has no curves; camelyon16, labels and weak mosaics have")
    drawn = {} if plots is None else {"plots": plots}
    split = found.test_split if split is None else split
    scores, images = found.score(bundle, backend, data, split, progress, left_out, **drawn)
    return {
        "dataset": dataset,
        "split": split,
        "images": images,
        "bundle": {"name": bundle.manifest.name, "sha256": bundle.sha256},
        "scales": bundle.manifest.views[0],
        "flips": bundle.manifest.views[1],
        "backend": f"{backend.name} {backend.version} on {backend.device}, {backend.precision}",
        "scores": {name: round(100 * value, 3) for name, value in scores.items()},
    }
