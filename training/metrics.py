"""How well a segmentation matches the truth: counts per image, and the scores of their sum.

Counts of several images are added, and a score is taken once from the sum over the whole split, so that large
images weigh more than small ones. So does the evaluation code of OEEM with its mIoU; a mean of per-image scores
is another number.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError

IGNORE = 255
GRADES = 4  # normal, benign, in situ, invasive: the classes that the score of the BACH challenge is of


def confusion(truth: NDArray[np.integer], prediction: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """Pixel counts `[C, C]`: row = true class, column = predicted class.

    Both maps are `[H, W]` with values 0 .. C-1; a pixel that is 255 in either is left out.
    Raises DatasetError for unequal shapes and for any other value.
    """
    check_shapes(truth, prediction)
    known = (truth != IGNORE) & (prediction != IGNORE)
    true_class, predicted_class = truth[known].astype(np.int64), prediction[known].astype(np.int64)
    for name, values in (("truth", true_class), ("prediction", predicted_class)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            raise DatasetError(
                f"the {name} holds values from {values.min()} to {values.max()}, but there are {classes} classes"
                f" (0 to {classes - 1}, {IGNORE} to ignore): give class numbers, not instance numbers"
            )
    return np.bincount(true_class * classes + predicted_class, minlength=classes**2).reshape(classes, classes)


def iou_per_class(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """`[C]`: TP / (TP + FP + FN), 0 to 1; NaN for a class that is in neither map. `counts` as from `confusion`."""
    overlap, truth, predicted = overlap_and_areas(counts)
    return divide(overlap, truth + predicted - overlap)


def mean_iou(counts: NDArray[np.int64]) -> float:
    """Mean of `iou_per_class` over the classes that occur, background included; NaN when no pixel was counted.

    On the counts of a whole split this is the mIoU of OEEM's tables.
    """
    scores = iou_per_class(counts)
    occurring = scores[~np.isnan(scores)]
    return float(occurring.mean()) if occurring.size else float("nan")


def merge_classes(counts: NDArray[np.int64], groups: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """The counts of coarser classes, each of which the classes of a group make up. `counts` as from `confusion`."""
    part = np.zeros((len(groups), len(counts)), np.int64)
    for number, members in enumerate(groups):
        part[number, list(members)] = 1
    merged: NDArray[np.int64] = part @ counts @ part.T
    return merged


def dice_per_class(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """`[C]`: 2 TP / (2 TP + FP + FN), 0 to 1; NaN for a class that is in neither map. `counts` as from `confusion`."""
    overlap, truth, predicted = overlap_and_areas(counts)
    return divide(2 * overlap, truth + predicted)


def paper_dice(miou: float) -> float:
    """2 m / (1 + m), the column that OEEM's Table 1 calls Dice.

    The equation holds for the IoU of one class. Put on a mean over classes it gives at least the mean of
    `dice_per_class`, and more where classes differ.
    """
    return 2 * miou / (1 + miou)


def pixel_f1(counts: NDArray[np.int64]) -> float:
    """F1 of foreground pixels, 2 TP / (2 TP + FP + FN): class 0 against all others taken together.

    With two classes this is the Dice of class 1. NaN when foreground is in neither map. `counts` as from `confusion`.
    """
    hit, missed, false_alarm = counts[1:, 1:].sum(), counts[1:, 0].sum(), counts[0, 1:].sum()
    total = 2 * hit + missed + false_alarm
    return float(2 * hit / total) if total else float("nan")


def accuracy(counts: NDArray[np.int64]) -> float:
    """Share of pixels whose class is right, 0 to 1; NaN when no pixel was counted. `counts` as from `confusion`."""
    return float(divide(np.trace(counts), counts.sum()))


def bach_score(counts: NDArray[np.int64]) -> float:
    """1 - sum |pred - gt| / h, 0 to 1: the score of the BACH challenge, which forgives a grade's neighbours most.

    h is the most that the pixels could be off by, 3 where the truth is normal or invasive and 2 where it is benign or
    in situ; pixels that are normal in both maps are left out. NaN when there are no others. `counts` `[4, 4]` as from
    `confusion`, their classes by rising grade; raises DatasetError for others.
    Source: DA-RefineNet, equations 13 and 14.
    """
    if counts.shape != (GRADES, GRADES):
        raise DatasetError(f"the BACH score is of {GRADES} grades, normal to invasive, not of {len(counts)} classes")
    grade = np.arange(GRADES)
    farthest = np.maximum(grade, GRADES - 1 - grade)
    off = (np.abs(grade[:, None] - grade) * counts).sum()
    most = (farthest[:, None] * counts).sum() - farthest[0] * counts[0, 0]
    return float(1 - divide(off, most))


def find_objects(mask: NDArray[np.bool_], smallest: int = 1) -> NDArray[np.int32]:
    """`[H, W]`: one number for each 4-connected component of `mask` of at least `smallest` pixels, 0 elsewhere."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    numbers = np.arange(len(stats), dtype=np.int32)
    numbers[stats[:, cv2.CC_STAT_AREA] < smallest] = 0
    return np.asarray(numbers[labels], np.int32)


def object_counts(truth: NDArray[np.integer], prediction: NDArray[np.integer]) -> NDArray[np.int64]:
    """`[3]`: true positives, false positives and false negatives among the objects of one image.

    Both maps are `[H, W]` with 0 for background and one number for each object; a predicted class becomes
    objects through `find_objects`. A segmented object belongs to the true object it shares most pixels with
    (the lower number where two share equally many) and is a true positive when it covers more than half of
    that object's area, otherwise a false positive. True objects without a true positive are false negatives.

    Source: the detection criterion of the GlaS challenge (Sirinukunwattana et al., MedIA 2017). Its text says
    "at least 50 %", its evaluation code (F1score.m) tests for more than half, as is done here: only so has a
    true object at most one true positive.
    """
    shared, true_areas, _ = object_overlaps(truth, prediction)
    true_count, predicted_count = shared.shape
    if not true_count or not predicted_count:
        return np.array([0, predicted_count, true_count], dtype=np.int64)
    own = shared.argmax(axis=0)
    found = int((2 * shared.max(axis=0) > true_areas[own]).sum())
    return np.array([found, predicted_count - found, true_count - found], dtype=np.int64)


def object_f1(counts: NDArray[np.int64]) -> float:
    """2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall; 1 when there are no objects at all.

    `counts` is the sum of `object_counts` over the images of a split.
    """
    found, false_alarms, missed = (int(count) for count in counts)
    total = 2 * found + false_alarms + missed
    return 2 * found / total if total else 1.0


def object_dice_sums(truth: NDArray[np.integer], prediction: NDArray[np.integer]) -> NDArray[np.float64]:
    """`[4]`: area-weighted Dice and area of the segmented objects, then of the true objects, of one image.

    Each object is compared with the one it shares most pixels with; without one its Dice is 0. Maps as in
    `object_counts`.
    """
    shared, true_areas, predicted_areas = object_overlaps(truth, prediction)
    if not shared.size:
        return np.array([0, predicted_areas.sum(), 0, true_areas.sum()], dtype=np.float64)
    dice = 2 * shared / (true_areas[:, None] + predicted_areas[None, :])
    of_predicted = dice[shared.argmax(axis=0), np.arange(len(predicted_areas))]
    of_true = dice[np.arange(len(true_areas)), shared.argmax(axis=1)]
    return np.array([predicted_areas @ of_predicted, predicted_areas.sum(), true_areas @ of_true, true_areas.sum()])


def object_dice(sums: NDArray[np.float64]) -> float:
    """Object-level Dice, 0 to 1: half the area-weighted mean over segmented objects plus half that over true ones.

    `sums` is the sum of `object_dice_sums` over the images of a split, so that each object weighs as its area
    among all of the split. 1 when there are no objects at all, 0 when only one side has any.
    Source: the segmentation criterion of the GlaS challenge (Sirinukunwattana et al., MedIA 2017).
    """
    predicted_dice, predicted_area, true_dice, true_area = (float(value) for value in sums)
    if not predicted_area or not true_area:
        return float(predicted_area == true_area)
    return (predicted_dice / predicted_area + true_dice / true_area) / 2


def object_overlaps(
    truth: NDArray[np.integer], prediction: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Shared pixels `[true objects, segmented objects]`, true areas and segmented areas; objects by rising number."""
    check_shapes(truth, prediction)
    true_numbers, true_index = np.unique(truth, return_inverse=True)
    numbers, index = np.unique(prediction, return_inverse=True)
    joint = np.bincount(true_index.ravel() * len(numbers) + index.ravel(), minlength=len(true_numbers) * len(numbers))
    joint = joint.reshape(len(true_numbers), len(numbers))
    true_objects, objects = true_numbers != 0, numbers != 0
    return joint[np.ix_(true_objects, objects)], joint.sum(axis=1)[true_objects], joint.sum(axis=0)[objects]


def overlap_and_areas(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Per class `[C]`: pixels that are right, pixels in the truth, pixels in the prediction."""
    return np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)


def divide(numerator: NDArray[np.int64] | np.int64, denominator: NDArray[np.int64] | np.int64) -> NDArray[np.float64]:
    """Elementwise quotient; 0 / 0 is NaN, without a warning."""
    with np.errstate(invalid="ignore"):
        return np.true_divide(numerator, denominator)


def check_shapes(truth: NDArray[np.integer], prediction: NDArray[np.integer]) -> None:
    """Raise DatasetError unless both maps have one shape."""
    if truth.shape != prediction.shape:
        raise DatasetError(f"the truth is {truth.shape} but the prediction is {prediction.shape}: resize one of them")
