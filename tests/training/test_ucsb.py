"""Bags of tiles, from made images and from the set itself."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile

from glassrt.engine.errors import DatasetError, SlideError
from glassrt.engine.slides.pictures.images import read_image
from glassrt.training.datasets import ucsb
from glassrt.training.datasets.bag import LabelledBag


def save(folder: Path, name: str, image: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(folder / name, image, photometric="rgb")
    return folder / name


def tissue(rows: int, columns: int) -> np.ndarray:
    """An image whose tiles are grey: 100 and their number."""
    numbers = np.arange(rows * columns, dtype=np.uint8).reshape(rows, columns) + 100
    return np.repeat(np.kron(numbers, np.ones((32, 32), np.uint8))[..., None], 3, axis=-1)


def test_tiles_come_row_by_row_with_their_middles(tmp_path: Path) -> None:
    save(tmp_path, "ytma7_010203_malignant12_ccd.tif", tissue(2, 3))
    (bag,) = ucsb.read_bags(tmp_path)
    assert (bag.name, bag.group, bag.label) == ("ytma7_010203_malignant12_ccd", "ytma7_010203", 1)
    assert bag.instances.shape == (6, 32, 32, 3)
    assert bag.instances.min((1, 2, 3)).tolist() == bag.instances.max((1, 2, 3)).tolist() == list(range(100, 106))
    assert bag.positions is not None
    assert bag.positions.tolist() == [[16, 16], [48, 16], [80, 16], [16, 48], [48, 48], [80, 48]]
    assert bag.instance_labels is None


def test_white_tiles_are_left_out(tmp_path: Path) -> None:
    image = tissue(1, 5)
    image[:24, 32:64] = 201  # 75 % white
    image[:24, 64:96] = 201
    image[0, 64] = 200  # a pixel less
    image[:, 96:128] = (255, 255, 200)  # yellow
    save(tmp_path, "ytma7_010203_benign1_ccd.tif", image)
    (bag,) = ucsb.read_bags(tmp_path)
    assert bag.positions is not None
    assert bag.positions[:, 0].tolist() == [16, 80, 112, 144]
    save(tmp_path, "ytma7_010203_benign1_ccd.tif", np.full((32, 64, 3), 201, np.uint8))
    with pytest.raises(DatasetError, match=r"benign1_ccd\.tif is white all over"):
        ucsb.read_bags(tmp_path)


def test_groups_and_labels_are_those_of_names(tmp_path: Path) -> None:
    names = [
        "ytma10_010704_benign2_ccd.tif",
        "ytma10_010704_malignant1_ccd.TIF",
        "ytma10_010705_benign1_ccd.tif",
        "ytma1_010704_benign1_ccd.tif",
        "ytma10_010704_malignant1.tif",  # a mask of the published truth
        "ytma10_010704_normal1_ccd.tif",
    ]
    for name in names:
        save(tmp_path / "ucsb", name, tissue(1, 1))
    bags = ucsb.read_bags(tmp_path)
    assert [(bag.group, ucsb.CLASSES[bag.label]) for bag in bags] == [
        ("ytma10_010704", "benign"),
        ("ytma10_010704", "malignant"),
        ("ytma10_010705", "benign"),
        ("ytma1_010704", "benign"),
    ]


def test_what_is_no_image_of_the_set_is_refused_in_a_line(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(DatasetError, match=r"no ytma\*_ccd\.tif here"):
            ucsb.read_bags(folder)
    path = save(tmp_path, "ytma7_010203_benign1_ccd.tif", tissue(1, 2)[:, :60])
    with pytest.raises(DatasetError, match=r"benign1_ccd\.tif is 60 x 32, not of whole tiles of 32"):
        ucsb.read_bags(tmp_path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(SlideError, match=r"benign1_ccd\.tif"):
        ucsb.read_bags(tmp_path)


@pytest.fixture(scope="module")
def bags() -> list[LabelledBag]:
    if "GLASSRT_DATA" not in os.environ:
        pytest.skip("GLASSRT_DATA is not set: it names the folder that holds ucsb/ with the UCSB breast images")
    return ucsb.read_bags(Path(os.environ["GLASSRT_DATA"]))


def test_the_set_is_as_published(bags: list[LabelledBag]) -> None:
    assert Counter(ucsb.CLASSES[bag.label] for bag in bags) == {"benign": 32, "malignant": 26}
    assert len({bag.group for bag in bags}) == 10
    assert sum(bag.group.startswith("ytma49") for bag in bags) == 34
    sizes = [len(bag.instances) for bag in bags]
    assert (min(sizes), max(sizes)) == (218, 653)
    assert all(bag.instance_labels is None for bag in bags)


def test_positions_are_where_tiles_were_cut(bags: list[LabelledBag]) -> None:
    bag = bags[30]
    image = read_image(Path(os.environ["GLASSRT_DATA"]) / "ucsb" / f"{bag.name}.tif")
    assert bag.positions is not None
    for (x, y), tile in zip(bag.positions.astype(int), bag.instances, strict=True):
        assert np.array_equal(image[y - 16 : y + 16, x - 16 : x + 16], tile)
