"""Scores of a bundle on a labelled set, through the engine that serves it. No torch."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import DatasetError
from glassrt.engine.runtimes.protocol import Backend
from glassrt.training.evaluations import glas

SETS = {"glas": glas.score}


def evaluate(
    bundle: Bundle,
    backend: Backend,
    dataset: str,
    data: Path,
    split: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
    left_out: Collection[Path] = (),
) -> dict[str, Any]:
    """A bundle's scores on a split of a set, in percent, and what they are of.

    `progress` is called with images done and in all; the files `left_out` are not scored. Raises DatasetError.
    """
    if dataset not in SETS:
        raise DatasetError(f"--dataset {dataset} is not known; choose {', '.join(SETS)}")
    scores, images = SETS[dataset](bundle, backend, data, split, progress, left_out)
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
