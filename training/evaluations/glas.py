"""A gland bundle on GlaS: pixel and object scores, pooled over the images of a split."""

import math
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import DatasetError
from glassrt.engine.maps.instances import insides, tell_apart
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.tasks.segment import ImageMap, map_image
from glassrt.training import metrics
from glassrt.training.datasets import glas

GLAND = 1  # the class of that number


def score(
    bundle: Bundle,
    backend: Backend,
    data: Path,
    split: str,
    progress: Callable[[int, int], None],
    left_out: Collection[Path],
) -> tuple[dict[str, float], int]:
    """Scores from 0 to 1 by name, and the number of images, but for the files `left_out`.

    The map has the pixels of the images, where that of `glassrt score` may be coarser. Objects are its regions, counted
    as there: none below the smallest that counts, and parted by contours where the bundle tells these. Raises
    DatasetError.
    """
    names = tuple(info.name for info in bundle.segmentation.classes)
    if names != glas.CLASSES:
        raise DatasetError(f"{bundle.path} tells {', '.join(names)} apart; GlaS needs {', '.join(glas.CLASSES)}")
    images = [image for image in glas.find_images(data, split) if image.image_path not in left_out]
    counts = np.zeros((len(names), len(names)), np.int64)
    smallest = math.ceil(round(bundle.segmentation.smallest_region_um2 / glas.MPP**2, 6))  # pixels
    objects = np.zeros(3, np.int64)
    object_sums = np.zeros(4)
    for done, image in enumerate(images, start=1):
        truth = image.instances()
        pixels = image.pixels()
        if pixels.shape[:2] != truth.shape:
            raise DatasetError(f"{image.image_path} and its mask differ in size")
        found = map_image(pixels, glas.MPP, bundle, backend, truth.shape[::-1])
        prediction = found.probabilities.argmax(axis=0).astype(np.uint8)
        counts += metrics.confusion((truth > 0).astype(np.uint8), prediction, len(names))
        regions = find_objects(found, prediction == GLAND, smallest)
        objects += metrics.object_counts(truth, regions)
        object_sums += metrics.object_dice_sums(truth, regions)
        progress(done, len(images))
    miou = metrics.mean_iou(counts)
    scores = {
        "mIoU": miou,
        "Dice": float(metrics.dice_per_class(counts)[1]),
        "2m/(1+m)": metrics.paper_dice(miou),
        "pixel F1": metrics.pixel_f1(counts),
        "object F1": metrics.object_f1(objects),
        "object Dice": metrics.object_dice(object_sums),
    }
    return scores, len(images)


def find_objects(found: ImageMap, mask: NDArray[np.bool_], smallest: int) -> NDArray[np.int32]:
    """`[H, W]`: one number for each gland of at least `smallest` pixels in `mask`, 0 elsewhere."""
    if found.contour is None:
        return metrics.find_objects(mask, smallest)
    stored = (np.rint(255 * each).astype(np.uint8) for each in (found.probabilities[GLAND], found.contour))
    return tell_apart(mask, insides(*stored), smallest)
