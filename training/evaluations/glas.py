"""A gland bundle on GlaS: pixel and object scores, pooled over the images of a split."""

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import DatasetError
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.tasks.segment import segment_image
from glassrt.training import metrics
from glassrt.training.datasets import glas


def score(
    bundle: Bundle,
    backend: Backend,
    data: Path,
    split: str,
    progress: Callable[[int, int], None],
    left_out: Collection[Path],
) -> tuple[dict[str, float], int]:
    """Scores from 0 to 1 by name, and the number of images, but for the files `left_out`.

    Objects are the 4-connected regions of the predicted class map that are not smaller than one logit, as
    `glassrt score` writes them. Raises DatasetError.
    """
    names = tuple(info.name for info in bundle.segmentation.classes)
    if names != glas.CLASSES:
        raise DatasetError(f"{bundle.path} tells {', '.join(names)} apart; GlaS needs {', '.join(glas.CLASSES)}")
    images = [image for image in glas.find_images(data, split) if image.image_path not in left_out]
    counts = np.zeros((len(names), len(names)), np.int64)
    objects = np.zeros(3, np.int64)
    object_sums = np.zeros(4)
    for done, image in enumerate(images, start=1):
        truth = image.instances()
        prediction = segment_image(image.pixels(), glas.MPP, bundle, backend).argmax(axis=0).astype(np.uint8)
        if prediction.shape != truth.shape:
            raise DatasetError(f"{image.image_path} and its mask differ in size")
        counts += metrics.confusion((truth > 0).astype(np.uint8), prediction, len(names))
        regions = metrics.find_objects(prediction == 1, bundle.segmentation.output_stride**2)
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
