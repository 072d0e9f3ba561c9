"""A bundle that tells tiles apart on patches of one class each, through the engine that serves it."""

import logging
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.kinds.classification import Classification
from glassrt.engine.errors import DatasetError
from glassrt.engine.geometry.boxes import bands
from glassrt.engine.runtimes.protocol import Backend
from glassrt.training import metrics
from glassrt.training.datasets.labelled_patches import LabelledPatches, resize
from glassrt.training.slide_metrics import roc_auc

LOGGER = logging.getLogger("glassrt")

SAME_WIDTH = 0.05  # by what share patches and windows may differ that are taken for as wide


class PatchSet(Protocol):
    """A module of `training/datasets` that finds labelled patches."""

    def find_patches(self, folder: Path, split: str) -> LabelledPatches:
        """The patches of a split. Raises DatasetError."""


def score(
    labelled: PatchSet,
    bundle: Bundle,
    backend: Backend,
    data: Path,
    split: str,
    progress: Callable[[int, int], None],
    left_out: Collection[Path] = (),
) -> tuple[dict[str, float], int]:
    """Scores from 0 to 1 by name, and the number of patches.

    Accuracy, its mean over classes (`balanced accuracy`), the mean of the classes' F1 and of their AUROC, each class
    against all others. What is not defined is NaN. Patches that are as wide as a window of the bundle, in micrometres,
    are resized to it. Raises DatasetError for others, or ones of other classes.
    """
    patches = labelled.find_patches(data, split)
    if not len(patches.labels):
        raise DatasetError(f"{data} has no patches of the split {split}: choose another one")
    order = match_classes(bundle, patches, data)
    warn_of_learned(bundle, patches)
    logits = classify(patches, bundle, backend, progress)
    return rate(logits[:, order], patches.labels), len(patches.labels)


def rate(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float]:
    """The scores of logits `[N, C]`, as `score` names them."""
    order = range(logits.shape[1])
    counts = metrics.confusion(labels, logits.argmax(1), len(order))
    overlap, truth = np.diag(counts), counts.sum(1)
    with np.errstate(invalid="ignore"):
        recalls = overlap / truth
    odds = logits - beside(logits)
    aucs = [roc_auc(odds[:, at], labels == at) for at in range(len(order))]
    return {
        "accuracy": float(overlap.sum() / counts.sum()),
        "balanced accuracy": mean_known(recalls),
        "F1": mean_known(metrics.dice_per_class(counts)),
        "AUROC": mean_known(np.array(aucs)),
    }


def match_classes(bundle: Bundle, patches: LabelledPatches, data: Path) -> list[int]:
    """The number in the bundle of each of the set's classes, whose names may differ in case. Raises DatasetError."""
    manifest = bundle.manifest
    if not isinstance(manifest, Classification):
        raise DatasetError(f"{bundle.path} is of the kind {manifest.kind}, which does not tell tiles apart")
    names = [info.name.casefold() for info in manifest.classes]
    if sorted(names) != sorted(name.casefold() for name in patches.classes):
        told, needed = (", ".join(each) for each in ((info.name for info in manifest.classes), patches.classes))
        raise DatasetError(f"{bundle.path} tells {told} apart; {data} has {needed}")
    return [names.index(name.casefold()) for name in patches.classes]


def warn_of_learned(bundle: Bundle, patches: LabelledPatches) -> None:
    """Say so where patches are of slides that the bundle learned from: neighbours of one slide are much alike."""
    assert isinstance(bundle.manifest, Classification)
    known = {*bundle.manifest.learned_from}.intersection(patches.sources)
    if known:
        count = sum(each in known for each in patches.sources)
        LOGGER.warning(
            "%d of %d patches are of slides that %s learned from, such as %s: scores on others will be lower",
            count, len(patches.labels), bundle.path, min(known),
        )  # fmt: skip


def classify(
    patches: LabelledPatches, bundle: Bundle, backend: Backend, progress: Callable[[int, int], None]
) -> NDArray[np.float64]:
    """The logits `[N, C]` of all patches, in the bundle's order of classes. Raises DatasetError for other sizes."""
    side, count = bundle.manifest.window, len(patches.labels)
    given = np.zeros((backend.batch, side, side, 3), np.uint8)
    parts = []
    for top, bottom in bands(count, backend.batch):
        for at in range(top, bottom):
            patch = patches.load(at)
            check_size(patch, patches.name(at), patches.mpp, bundle)
            given[at - top] = resize(patch, side)
        (logits,) = backend.infer({"tile": given}).values()
        parts.append(logits[: bottom - top].astype(np.float64))
        progress(bottom, count)
    return np.concatenate(parts)


def check_size(patch: NDArray[np.uint8], name: str, mpp: float | None, bundle: Bundle) -> None:
    """Raise DatasetError for a patch that does not show what a window of the bundle does; of unknown resolution `mpp`
    it has to have as many pixels.
    """
    manifest, (height, width) = bundle.manifest, patch.shape[:2]
    if mpp is None or height != width:
        if (height, width) != (manifest.window, manifest.window):
            raise DatasetError(
                f"{name} is {width} x {height} px, {bundle.path} takes {manifest.window} x "
                f"{manifest.window}: cut or resize them"
            )
    elif abs(width * mpp / (manifest.window * manifest.mpp) - 1) > SAME_WIDTH:
        raise DatasetError(
            f"{name} is {width * mpp:.4g} micrometres wide, windows of {bundle.path} are "
            f"{manifest.window * manifest.mpp:.4g}: cut patches of that width, a folder a class (--dataset folders)"
        )


def beside(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[N, C]`: the logarithm of what all other classes have together, so that the difference is the log-odds."""
    others = [np.logaddexp.reduce(np.delete(logits, at, axis=1), axis=1) for at in range(logits.shape[1])]
    return np.stack(others, axis=1)


def mean_known(values: NDArray[np.float64]) -> float:
    """The mean of those that are defined."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan
