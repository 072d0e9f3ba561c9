"""A bundle on labelled slides: pixel scores, pooled over the slides of a split; memory does not grow with a slide."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import DatasetError
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.maps.canvas import Tile
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.tasks.segment import lay_windows, segment
from glassrt.engine.tasks.segmentation import open_grid
from glassrt.training import metrics
from glassrt.training.datasets.labelled import LabelledSlide


class SlideSet(Protocol):
    """A module of `training/datasets` that finds labelled slides. `GROUPS` are coarser classes by name, each of which
    some of the set's make up; none where it has none.
    """

    @property
    def CLASSES(self) -> tuple[str, ...]:
        """What the classes of its truth are called."""

    @property
    def GROUPS(self) -> Mapping[str, tuple[int, ...]]:
        """Coarser classes: the numbers of those that each is made of."""

    def find_slides(self, folder: Path, split: str) -> list[LabelledSlide]:
        """The slides of a split. Raises DatasetError."""


def score(
    labelled: SlideSet,
    title: str,
    bundle: Bundle,
    backend: Backend,
    data: Path,
    split: str,
    progress: Callable[[int, int], None],
    left_out: Collection[Path],
) -> tuple[dict[str, float], int]:
    """Scores from 0 to 1 by name, and the number of slides, but for the files `left_out`; `title` names the set.

    All pixels count, glass as well as tissue, at the resolution that the bundle was made for. The score of the BACH
    challenge is given of sets with four classes, which are grades as its are; a second mIoU of coarser classes where
    the set has such. Raises DatasetError or SlideError.
    """
    names = check_classes(bundle, labelled.CLASSES, title)
    slides = [slide for slide in labelled.find_slides(data, split) if slide.path not in left_out]
    counts = np.zeros((len(names), len(names)), np.int64)
    for done, slide in enumerate(slides, start=1):
        counts += count_pixels(slide, bundle, backend)
        progress(done, len(slides))
    scores = {"mIoU": metrics.mean_iou(counts), "accuracy": metrics.accuracy(counts)}
    if len(names) == metrics.GRADES:
        scores["score"] = metrics.bach_score(counts)
    if labelled.GROUPS:
        merged = metrics.merge_classes(counts, list(labelled.GROUPS.values()))
        scores[f"mIoU of {len(merged)}"] = metrics.mean_iou(merged)
    ious = metrics.iou_per_class(counts).tolist()
    return scores | {f"IoU {name}": iou for name, iou in zip(names, ious, strict=True)}, len(slides)


def check_classes(bundle: Bundle, classes: tuple[str, ...], title: str) -> tuple[str, ...]:
    """The names of a bundle's classes. Raises DatasetError unless they are those of the set called `title`."""
    names = tuple(info.name for info in bundle.segmentation.classes)
    if names != classes:
        raise DatasetError(f"{bundle.path} tells {', '.join(names)} apart; {title} needs {', '.join(classes)}")
    return names


def count_pixels(labelled: LabelledSlide, bundle: Bundle, backend: Backend) -> NDArray[np.int64]:
    """`[C, C]` as `metrics.confusion`: of every pixel of a slide at the bundle's resolution, tile by tile."""
    classes = len(bundle.segmentation.classes)
    counts = np.zeros((classes, classes), np.int64)
    with open_slide(labelled.path, labelled.mpp) as slide:
        grid = open_grid(slide, bundle)
        size = (grid.width, grid.height)

        def place(tile: Tile) -> None:
            prediction = tile.probabilities.argmax(axis=0)
            height, width = prediction.shape
            truth = labelled.truth.cut(Box(tile.left, tile.top, tile.left + width, tile.top + height), size)
            np.add(counts, metrics.confusion(truth, prediction, classes), out=counts)

        segment(grid, lay_windows(grid, bundle), bundle, backend, size, place)
    return counts
