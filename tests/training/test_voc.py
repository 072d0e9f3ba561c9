"""PASCAL VOC as it is published, in both kinds of lists and masks; and what is told of networks that learned on it."""

import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_voc import SIZE, make_voc
from torch import Tensor, nn

from glassrt.engine.errors import DatasetError
from glassrt.training.datasets import voc
from glassrt.training.natural_scores import average_precision, score_natural

# Of the development kit: background, aeroplane, bicycle, bird; tvmonitor; the border.
PUBLISHED = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 20: (0, 64, 128), 255: (224, 224, 192)}


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("place", [".", "voc2012", "VOCdevkit/VOC2012"])
def test_both_kinds_of_lists_name_the_same_images(tmp_path: Path, pairs: bool, place: str) -> None:
    make_voc(tmp_path / place, pairs=pairs)
    train, val = (voc.find_images(tmp_path, split) for split in ("train", "val"))
    assert [each.image_path.name for each in (*train, *val)] == [f"2007_{number:06}.jpg" for number in range(6)]
    assert train[2].pixels().shape == (*SIZE, 3)
    assert Counter(train[2].classes().ravel().tolist()) == {0: 72 * 90 - 32 * 40, 3: 28 * 40, 255: 4 * 40}


def test_grey_masks_and_ones_with_a_palette_are_read_alike(tmp_path: Path) -> None:
    assert {number: tuple(voc.palette()[number].tolist()) for number in PUBLISHED} == PUBLISHED
    (image, *_) = voc.find_images(make_voc(tmp_path), "train")
    grey = image.classes()
    grey[:2, :3] = [[0, 1, 2], [3, 20, 255]]
    cv2.imwrite(str(image.mask_path), voc.palette()[grey][..., ::-1].astype(np.uint8))
    assert np.array_equal(image.classes(), grey)


def test_grey_photographs_are_read(tmp_path: Path) -> None:
    (image, *_) = voc.find_images(make_voc(tmp_path), "train")
    cv2.imwrite(str(image.image_path), np.full(SIZE, 77, np.uint8))
    assert np.array_equal(image.pixels(), np.full((*SIZE, 3), 77))


def test_what_is_not_voc_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no JPEGImages here; --data must name the folder of VOC2012"):
        voc.find_images(tmp_path, "train")
    make_voc(tmp_path)
    with pytest.raises(DatasetError, match="no split 'test'; choose one of train, val"):
        voc.find_images(tmp_path, "test")
    (image, *_) = voc.find_images(tmp_path, "train")
    cv2.imwrite(str(image.mask_path), np.full(SIZE, 21, np.uint8))
    with pytest.raises(DatasetError, match="holds the value 21: masks have 0 to 20, and 255"):
        image.classes()
    cv2.imwrite(str(image.mask_path), np.full((*SIZE, 3), 5, np.uint8))
    with pytest.raises(DatasetError, match="has colours that are not VOC's"):
        image.classes()
    cv2.imwrite(str(image.mask_path), np.full(SIZE, 257, np.uint16))
    with pytest.raises(DatasetError, match="cannot be read as an image of 8 bits"):
        image.classes()
    cv2.imwrite(str(image.mask_path), np.zeros((36, 45), np.uint8))
    with pytest.raises(DatasetError, match=r"\.jpg has 90 x 72 pixels but its mask 45 x 36"):
        image.read()
    image.mask_path.write_bytes(b"")
    with pytest.raises(DatasetError, match="cannot be read as an image"):
        image.classes()
    image.mask_path.unlink()
    with pytest.raises(DatasetError, match=r"trainaug\.txt names '2007_000000', but .*png is missing"):
        voc.find_images(tmp_path, "train")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("2007_000004 2007_000005 x\n")
    with pytest.raises(DatasetError, match=r"val\.txt has 3 words in a line"):
        voc.find_images(tmp_path, "val")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("\ufeff2007_000004\r\n", encoding="utf-8")
    assert len(voc.find_images(tmp_path, "val")) == 1
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("\n")
    with pytest.raises(DatasetError, match=r"val\.txt names no image"):
        voc.find_images(tmp_path, "val")
    (tmp_path / "ImageSets/Segmentation/val.txt").unlink()
    with pytest.raises(DatasetError, match=r"has none of val\.txt"):
        voc.find_images(tmp_path, "val")


class Told(nn.Module):
    """Says of every image, in turn, what it was told to."""

    def __init__(self, said: list[Tensor]) -> None:
        super().__init__()
        self.said, self.place = iter(said), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return next(self.said)


def test_pixels_are_scored_by_what_they_are_called(tmp_path: Path) -> None:
    """All is called background: the first of three classes that occur."""
    images = voc.find_images(make_voc(tmp_path), "val")
    background = torch.zeros(1, 21, 9, 12)
    background[:, 0] = 1
    right = (72 * 90 - 32 * 40) / (72 * 90 - 4 * 40)
    assert score_natural(Told([background] * 2), images) == {"mIoU": pytest.approx(100 * right / 3)}


def test_things_are_scored_by_their_ranks(tmp_path: Path) -> None:
    """Classes 5 and 6 are in one image each: the one is ranked first, the other last."""
    images = voc.find_images(make_voc(tmp_path), "val")
    said = torch.zeros(2, 1, 20)
    said[0, 0, 4], said[0, 0, 5] = 3, 2
    assert score_natural(Told(list(said)), images) == {"mAP": pytest.approx(100 * (1 + 1 / 2) / 2)}


def test_average_precision_is_that_worked_by_hand() -> None:
    scores, shown = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([True, False, True, False, True])
    assert average_precision(scores, shown) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert average_precision(np.zeros(4), np.array([True, False, False, False])) == 0.25  # tied with all others
    assert np.isnan(average_precision(scores, np.zeros(5, np.bool_)))


@pytest.mark.skipif("GLASSRT_DATA" not in os.environ, reason="GLASSRT_DATA names no folder of the sets")
def test_the_set_is_read() -> None:
    folder = Path(os.environ["GLASSRT_DATA"])
    images = voc.find_images(folder, "train")
    assert (len(images), len(voc.find_images(folder, "val"))) == (1090, 179)
    held: set[int] = set()
    for image in images[::20]:
        mask = image.classes()
        assert image.pixels().shape[:2] == mask.shape
        held |= {*np.unique(mask).tolist()}
    assert {0, 255} < held <= {*range(21), 255}
