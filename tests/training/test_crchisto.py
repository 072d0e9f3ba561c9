"""Bags of nuclei, from made folders of the published layout and from the set itself."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_crchisto import make_image

from glassrt.engine.errors import DatasetError
from glassrt.engine.slides.pictures.images import read_image
from glassrt.training.datasets import crchisto
from glassrt.training.datasets.bag import LabelledBag

POINTS = {"epithelial": [[3.0, 2.0]], "fibroblast": [[60.0, 50.0], [30.5, 1.0]], "inflammatory": [[0.2, 20.0]]}


def test_instances_surround_nuclei_and_know_their_class(tmp_path: Path) -> None:
    make_image(tmp_path, **POINTS)
    (bag,) = crchisto.read_bags(tmp_path)
    assert (bag.name, bag.group, bag.label) == ("img1", "img1", 1)
    assert bag.instances.shape == (4, 27, 27, 3)
    assert bag.positions is not None
    assert bag.instance_labels is not None
    # from top to bottom, half a pixel less than MATLAB counts, what lies before the border on it
    assert bag.positions.tolist() == [[30, 0.5], [2.5, 1.5], [0, 19.5], [59.5, 49.5]]
    assert bag.instance_labels.tolist() == [0, 1, 0, 0]
    middles = bag.instances[:, 13, 13] - 100
    assert middles.tolist() == [[30, 0, 30], [2, 1, 3], [0, 19, 19], [59, 49, 108]]


def test_borders_are_mirrored(tmp_path: Path) -> None:
    make_image(tmp_path, **POINTS)
    (bag,) = crchisto.read_bags(tmp_path)
    columns, rows = bag.instances[1, 13, :, 0] - 100, bag.instances[1, :, 13, 1] - 100
    assert columns.tolist() == [abs(2 + step) for step in range(-13, 14)]
    assert rows.tolist() == [abs(1 + step) for step in range(-13, 14)]
    assert bag.instances[3, 13, :, 0].tolist() == [159 - abs(step) for step in range(-13, 14)]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float64])
def test_points_may_be_of_any_of_the_types_that_the_set_has(tmp_path: Path, kind: type) -> None:
    make_image(tmp_path, epithelial=np.array([[3, 2], [60, 50]], kind))
    (bag,) = crchisto.read_bags(tmp_path)
    assert bag.positions is not None
    assert bag.positions.dtype == np.float64
    assert bag.positions.tolist() == [[2.5, 1.5], [59.5, 49.5]]


def test_images_come_by_number_and_are_positive_for_epithelium(tmp_path: Path) -> None:
    place = tmp_path / "CRCHistoPhenotypes_2016_04_28" / "Classification"
    for number in (10, 2):
        make_image(place, number, others=[[5.0, 5.0]], **({"epithelial": [[9.0, 9.0]]} if number == 2 else {}))
    (place / "img3.txt").touch()
    (place / "images").mkdir()
    assert [(bag.name, bag.label) for bag in crchisto.read_bags(tmp_path)] == [("img2", 1), ("img10", 0)]
    assert len(crchisto.read_bags(place)) == 2


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ([[61.0, 5.0]], r"nucleus \(61, 5\) is outside the image of 60 x 50"),
        ([[5.0, 5.0], [5.0, 50.5]], r"nucleus \(5, 50\.5\) is outside"),
        ([[-0.1, 5.0]], r"nucleus \(-0\.1, 5\) is outside"),
        ([[5.0, np.nan]], r"nucleus \(5, nan\) is outside"),
        ([[5.0, np.inf]], r"nucleus \(5, inf\) is outside"),
        ([[5.0, 6.0, 7.0]], r"'detection' is \(1, 3\), expected x and y"),
        (np.zeros((2, 2, 2)), r"'detection' has the dimensions \[2, 2, 2\], expected two"),
        ([[1 + 2j, 3j]], "'detection' is no array of real numbers"),
        (["some text"], "'detection' is no array of real numbers"),
        ({"x": [1.0]}, "'detection' is no array of real numbers"),
    ],
)
def test_a_list_that_is_none_of_nuclei_is_refused_in_a_line(tmp_path: Path, points: Any, says: str) -> None:
    make_image(tmp_path, inflammatory=points)
    with pytest.raises(DatasetError, match=rf"img1_inflammatory\.mat: {says}") as told:
        crchisto.read_bags(tmp_path)
    assert "\n" not in str(told.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no img1 and others here"):
        crchisto.read_bags(tmp_path)
    place = make_image(tmp_path)
    with pytest.raises(DatasetError, match="img1 has no nucleus of any class, so its bag is empty"):
        crchisto.read_bags(tmp_path)
    (place / "img1_others.mat").unlink()
    with pytest.raises(DatasetError, match=r"img1_others\.mat is missing"):
        crchisto.read_bags(tmp_path)
    (place / "img1.bmp").unlink()
    with pytest.raises(DatasetError, match=r"img1\.bmp is missing"):
        crchisto.read_bags(tmp_path)


@pytest.fixture(scope="module")
def place() -> Path:
    """The set's folder of images."""
    if "GLASSRT_DATA" not in os.environ:
        pytest.skip("GLASSRT_DATA is not set: it names the folder that holds crchisto/ with CRCHistoPhenotypes")
    return Path(os.environ["GLASSRT_DATA"]) / "crchisto"


@pytest.fixture(scope="module")
def bags(place: Path) -> list[LabelledBag]:
    return crchisto.read_bags(place.parent)


def test_the_set_has_the_nuclei_that_its_authors_count(place: Path, bags: list[LabelledBag]) -> None:
    counts = [
        sum(len(crchisto.load_points(each / f"{each.name}_{kind}.mat")) for each in place.glob("img*"))
        for kind in crchisto.KINDS
    ]
    assert counts == [7722, 5712, 6971, 2039]
    sizes = [len(bag.instances) for bag in bags]
    assert (len(bags), sum(bag.label for bag in bags)) == (100, 51)
    assert (sum(sizes), min(sizes), max(sizes), np.median(sizes)) == (22444, 1, 796, 171)
    labels = [bag.instance_labels for bag in bags if bag.instance_labels is not None]
    assert sum(int(label.sum()) for label in labels) == 7722
    assert [int(label.any()) for label in labels] == [bag.label for bag in bags]


def test_nuclei_are_in_the_middle_of_their_patches(place: Path, bags: list[LabelledBag]) -> None:
    """The mean patch is darkest there: off by a pixel if the files counted from 0."""
    mean = np.mean([bag.instances[..., 0].mean(0) for bag in bags if len(bag.instances) > 50], axis=0)
    for profile in (mean[8:19].mean(0), mean[:, 8:19].mean(1)):
        off = [np.sum((profile[13 + shift :][:9] - profile[13 + shift :: -1][:9]) ** 2) for shift in range(-3, 4)]
        assert np.argmin(off) == 3
    bag = bags[0]
    assert bag.positions is not None
    image = read_image(place / bag.name / f"{bag.name}.bmp")
    column, row = bag.positions.astype(int).T
    assert np.array_equal(image[row, column], bag.instances[:, 13, 13])
