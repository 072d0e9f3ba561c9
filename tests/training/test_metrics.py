"""Segmentation scores against values worked out by hand, and against the GlaS masks."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError
from glassrt.training import metrics

Map = list[list[int]]


def grid(rows: str) -> NDArray[np.uint8]:
    """A map drawn as digits, rows parted by spaces; `x` is 255."""
    return np.array([[255 if sign == "x" else int(sign) for sign in row] for row in rows.split()], dtype=np.uint8)


@pytest.mark.parametrize(
    ("truth", "prediction", "classes", "counts"),
    [
        ("0011", "0011", 2, [[2, 0], [0, 2]]),
        ("0011", "0101", 2, [[1, 1], [1, 1]]),
        ("0000 1111", "1111 0000", 2, [[0, 4], [4, 0]]),
        ("001x", "0x11", 2, [[1, 0], [0, 1]]),
        ("xx", "01", 2, [[0, 0], [0, 0]]),
        ("0122", "0212", 3, [[1, 0, 0], [0, 0, 1], [0, 1, 1]]),
    ],
)
def test_confusion_has_true_classes_in_rows(truth: str, prediction: str, classes: int, counts: Map) -> None:
    result = metrics.confusion(grid(truth), grid(prediction), classes)
    assert result.dtype == np.int64
    assert result.tolist() == counts


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), r"\(2, 2\).*\(2, 3\)"),
        (np.array([[0, 7]]), np.array([[0, 1]]), "truth holds values from 0 to 7.*2 classes"),
        (np.array([[0, 1]]), np.array([[0, -1]]), "prediction holds values from -1"),
    ],
)
def test_confusion_refuses_maps_that_do_not_fit(
    truth: NDArray[np.int64], prediction: NDArray[np.int64], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        metrics.confusion(truth, prediction, 2)


@pytest.mark.parametrize(
    ("counts", "iou", "dice", "f1"),
    [
        ([[5, 0], [0, 3]], [1, 1], [1, 1], 1),
        ([[0, 5], [3, 0]], [0, 0], [0, 0], 0),
        # class 0: 6 / (6 + 2 + 1), class 1: 3 / (3 + 1 + 2)
        ([[6, 2], [1, 3]], [6 / 9, 3 / 6], [12 / 15, 6 / 9], 6 / 9),
        ([[4, 0], [0, 0]], [1, np.nan], [1, np.nan], np.nan),
        ([[0, 0], [0, 0]], [np.nan, np.nan], [np.nan, np.nan], np.nan),
        # foreground of F1 is classes 1 and 2 together: TP 5, FP 1, FN 2
        ([[4, 1, 0], [2, 2, 1], [0, 0, 2]], [4 / 7, 2 / 6, 2 / 3], [8 / 11, 4 / 8, 4 / 5], 10 / 13),
    ],
)
def test_pixel_scores(counts: Map, iou: list[float], dice: list[float], f1: float) -> None:
    matrix = np.array(counts)
    assert metrics.iou_per_class(matrix) == pytest.approx(iou, nan_ok=True)
    assert metrics.dice_per_class(matrix) == pytest.approx(dice, nan_ok=True)
    assert metrics.pixel_f1(matrix) == pytest.approx(f1, nan_ok=True)
    occurring = [value for value in iou if not np.isnan(value)]
    mean = sum(occurring) / len(occurring) if occurring else np.nan
    assert metrics.mean_iou(matrix) == pytest.approx(mean, nan_ok=True)


@pytest.mark.parametrize(
    ("truth", "prediction", "score", "right"),
    [
        ("0123", "0123", 1, 1),
        # off by 3 + 3 of the 3 + 3 that are possible; the pixel that is normal twice is in neither sum
        ("030", "300", 0, 1 / 3),
        # off by 1 + 1 + 1 + 1 of 3 (truth 0) + 2 (truth 1) + 2 (truth 2) + 3 (truth 3)
        ("0123", "1232", 1 - 4 / 10, 0),
        # a false alarm weighs 3 however small it is: off by 1 of 3
        ("0000", "0001", 1 - 1 / 3, 3 / 4),
        # benign is farthest from invasive: off by 2 of 2
        ("1", "3", 0, 0),
        # in situ is farthest from normal: off by 2 of 2, beside an invasive pixel that is right: 0 of 3
        ("23", "03", 1 - 2 / 5, 1 / 2),
        # four pixels are right, two of them counted: off by 0 + 0 + 1 + 3 of 2 + 3 + 2 + 3
        ("001 313", "001 320", 1 - 4 / 10, 4 / 6),
        # ignored pixels are in neither sum: off by 0 of 2, then by 1 of 2
        ("x1 x3", "31 2x", 1, 1),
        ("x1x", "023", 1 - 1 / 2, 0),
        ("000", "000", np.nan, 1),
        ("xx", "01", np.nan, np.nan),
    ],
)
def test_the_score_of_bach_forgives_neighbours_and_leaves_normal_pixels_out(
    truth: str, prediction: str, score: float, right: float
) -> None:
    counts = metrics.confusion(grid(truth), grid(prediction), 4)
    assert metrics.bach_score(counts) == pytest.approx(score, nan_ok=True)
    assert metrics.accuracy(counts) == pytest.approx(right, nan_ok=True)


def test_the_score_of_bach_is_that_of_equations_13_and_14_pixel_by_pixel() -> None:
    random = np.random.default_rng(0)
    for shares in ((1, 1, 1, 1), (9, 1, 1, 1), (50, 1, 0, 1), (1, 0, 0, 3)):
        choose = np.repeat(np.arange(4), shares)
        gt, pred = (random.choice(choose, (37, 53)) for _ in range(2))
        gt_bin, pred_bin = (gt > 0).astype(int), (pred > 0).astype(int)
        h = np.sum(np.maximum(abs(gt - 0), abs(gt - 3)) * (1 - (1 - pred_bin) * (1 - gt_bin)))
        counts = metrics.confusion(gt, pred, 4)
        assert metrics.bach_score(counts) == pytest.approx(1 - np.sum(abs(pred - gt)) / h, abs=1e-12)
        assert metrics.accuracy(counts) == pytest.approx(np.mean(gt == pred), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_score_of_bach_is_of_four_grades(classes: int) -> None:
    with pytest.raises(DatasetError, match=f"4 grades.*not of {classes} classes"):
        metrics.bach_score(np.ones((classes, classes), np.int64))


# mIoU and Dice columns of OEEM, Table 1, in percent
@pytest.mark.parametrize(("miou", "dice"), [(65.34, 79.04), (82.24, 90.25), (86.84, 92.96), (77.56, 87.36)])
def test_paper_dice_gives_the_dice_column_of_oeem(miou: float, dice: float) -> None:
    assert 100 * metrics.paper_dice(miou / 100) == pytest.approx(dice, abs=0.011)


def test_paper_dice_is_above_the_mean_dice_where_classes_differ() -> None:
    counts = np.array([[90, 5], [4, 1]])
    mean_dice = float(metrics.dice_per_class(counts).mean())
    assert mean_dice == pytest.approx((180 / 189 + 2 / 11) / 2)
    assert metrics.paper_dice(metrics.mean_iou(counts)) > mean_dice


def test_images_are_pooled_before_a_score_is_taken() -> None:
    large = metrics.confusion(np.zeros((10, 10), int), np.zeros((10, 10), int), 2)
    small = metrics.confusion(grid("11"), grid("00"), 2)
    assert metrics.mean_iou(large + small) == pytest.approx((100 / 102 + 0) / 2)
    assert metrics.mean_iou(large + small) != pytest.approx((metrics.mean_iou(large) + metrics.mean_iou(small)) / 2)


def test_objects_are_joined_along_edges_and_specks_are_none() -> None:
    assert metrics.find_objects(grid("100 010 000") > 0).max() == 2
    assert metrics.find_objects(grid("101 000 101") > 0).max() == 4
    assert metrics.find_objects(grid("000") > 0).max() == 0
    assert np.array_equal(metrics.find_objects(grid("110 000 001") > 0, smallest=2) > 0, grid("110 000 000") > 0)


OBJECTS = [
    # truth, segmented, TP, FP, FN
    ("11022", "11022", 2, 0, 0),
    ("11022", "22011", 2, 0, 0),  # numbers need not agree
    ("00000", "00000", 0, 0, 0),
    ("11022", "00000", 0, 0, 2),
    ("00000", "11022", 0, 2, 0),
    ("1111", "1100", 0, 1, 1),  # exactly half is not more than half
    ("1111", "1110", 1, 0, 0),
    ("1111", "1122", 0, 2, 1),  # two halves find nothing
    ("11111", "11122", 1, 1, 0),  # one gland in two pieces: the larger finds it, the other is false
    ("111022", "111111", 1, 0, 1),  # two glands in one piece: only the one that is shared most is found
    ("110022", "111111", 1, 0, 1),  # a tie goes to the lower number
    ("1000 0000", "1111 1111", 1, 0, 0),  # a flood covers the whole gland, however much it spills
    ("1100", "0011", 0, 1, 1),
    ("70090", "30050", 2, 0, 0),  # numbers may have gaps
]


@pytest.mark.parametrize(("truth", "segmented", "found", "false_alarms", "missed"), OBJECTS)
def test_objects_are_counted_as_the_glas_challenge_does(
    truth: str, segmented: str, found: int, false_alarms: int, missed: int
) -> None:
    assert metrics.object_counts(grid(truth), grid(segmented)).tolist() == [found, false_alarms, missed]


def test_object_f1_is_taken_from_the_counts_of_all_images() -> None:
    total = sum(metrics.object_counts(grid(truth), grid(segmented)) for truth, segmented, *_ in OBJECTS)
    assert total.tolist() == [11, 7, 7]
    assert metrics.object_f1(total) == pytest.approx(22 / 36)
    assert metrics.object_f1(np.array([0, 0, 0])) == 1
    assert metrics.object_f1(np.array([0, 3, 2])) == 0


@pytest.mark.parametrize(
    ("images", "dice"),
    [
        ([("1102", "1102")], 1),
        ([("000", "000")], 1),
        ([("110", "000")], 0),
        ([("000", "110")], 0),
        ([("1100", "0011")], 0),
        # segmented: 4 pixels with Dice 2*3/7, 1 pixel with Dice 2*1/4; true: 3 pixels with 2*3/7, 3 with 2*1/4
        ([("1110 2220", "1111 2000")], ((4 * 6 / 7 + 1 / 2) / 5 + (3 * 6 / 7 + 3 / 2) / 6) / 2),
        # the empty second image adds the area of its false object to the segmented side only
        ([("1110", "1110"), ("0000", "1000")], (3 / 4 + 3 / 3) / 2),
    ],
)
def test_object_dice_weighs_objects_by_area(images: list[tuple[str, str]], dice: float) -> None:
    total = sum(metrics.object_dice_sums(grid(truth), grid(segmented)) for truth, segmented in images)
    assert isinstance(total, np.ndarray)
    assert metrics.object_dice(total) == pytest.approx(dice)


def test_object_scores_refuse_maps_of_unequal_shape() -> None:
    with pytest.raises(DatasetError, match="resize one of them"):
        metrics.object_counts(grid("00"), grid("000"))


@pytest.fixture(scope="module")
def glands() -> list[NDArray[np.uint8]]:
    """Instance masks of GlaS test part A."""
    if "GLASSRT_DATA" not in os.environ:
        pytest.skip("GLASSRT_DATA is not set: it names the folder that holds glas/ with the GlaS images")
    from glassrt.training.datasets import glas

    return [image.instances() for image in glas.find_images(Path(os.environ["GLASSRT_DATA"]), "testA")]


def test_true_masks_score_one_against_themselves(glands: list[NDArray[np.uint8]]) -> None:
    pixels = sum(metrics.confusion((mask > 0).astype(int), (mask > 0).astype(int), 2) for mask in glands)
    objects = sum(metrics.object_counts(mask, mask) for mask in glands)
    assert isinstance(pixels, np.ndarray)
    assert isinstance(objects, np.ndarray)
    assert pixels.sum() == sum(mask.size for mask in glands)
    assert metrics.mean_iou(pixels) == metrics.pixel_f1(pixels) == 1
    assert objects.tolist() == [sum(len(np.unique(mask)) - 1 for mask in glands), 0, 0]
    assert metrics.object_dice(sum(metrics.object_dice_sums(mask, mask) for mask in glands)) == 1


def test_object_counts_agree_with_a_plain_statement_of_the_challenge_on_real_glands(
    glands: list[NDArray[np.uint8]],
) -> None:
    for mask in glands:
        segmented = metrics.find_objects(np.roll(mask, (12, -17), axis=(0, 1)) > 0)  # a poor but real segmentation
        found = 0
        for number in range(1, segmented.max() + 1):
            numbers, shared = np.unique(mask[(segmented == number) & (mask > 0)], return_counts=True)
            if numbers.size:
                found += bool(shared.max() > 0.5 * np.sum(mask == numbers[shared.argmax()]))
        missed = len(np.unique(mask)) - 1 - found
        assert metrics.object_counts(mask, segmented).tolist() == [found, segmented.max() - found, missed]


def test_merged_classes_are_counted_as_if_they_were_one() -> None:
    random = np.random.default_rng(5)
    truth, prediction = random.integers(0, 4, (2, 40, 50))
    coarser = np.array([0, 1, 1, 2])
    merged = metrics.merge_classes(metrics.confusion(truth, prediction, 4), [(0,), (1, 2), (3,)])
    assert np.array_equal(merged, metrics.confusion(coarser[truth], coarser[prediction], 3))
