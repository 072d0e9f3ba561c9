"""Bags of digits, and files that are no digits."""

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glassrt.engine.errors import DatasetError
from glassrt.training.datasets.mnist_bags import CLASSES, Digits, make_bags, read_digits

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def made(count: int = 40) -> Digits:
    """Digits that are told by their pixels: digit d is an image of 20 d + (0 to 3)."""
    labels = np.arange(count, dtype=np.uint8) % 10
    images = (20 * labels + np.arange(count) % 4).astype(np.uint8)
    return Digits("train", np.broadcast_to(images[:, None, None], (count, 4, 5)).copy(), labels)


def write(folder: Path, images: bytes, labels: bytes, packed: bool = False) -> Path:
    for name, content in ((IMAGES, images), (LABELS, labels)):
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_files_are_read_plain_or_packed_from_the_folder_or_above(tmp_path: Path, packed: bool) -> None:
    (tmp_path / "mnist").mkdir()
    write(tmp_path / "mnist", idx(made().images), idx(made().labels), packed)
    for folder in (tmp_path, tmp_path / "mnist"):
        digits = read_digits(folder, "train")
        assert digits.images.dtype == digits.labels.dtype == np.uint8
        assert np.array_equal(digits.images, made().images)
        assert np.array_equal(digits.labels, made().labels)


GOOD = idx(made().images)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (b"", "begins with nothing, not as an idx file of bytes in 3 dimensions does"),
        (b"BM" + GOOD[2:], "begins with 424d0803"),
        (idx(made().labels), "begins with 00000801"),
        (GOOD[:2] + b"\x0d" + GOOD[3:], "begins with 00000d03"),  # floats
        (GOOD[:11], "ends within its header"),
        (GOOD[:-1], "should hold 800 bytes after its header, but holds 799"),
        (GOOD + b"\0", "should hold 800 bytes after its header, but holds more"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**31, 2**31), "expected 1 to 268435456"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 0, 28, 28), "holds 0 bytes, expected 1"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_file_is_refused_in_a_line(tmp_path: Path, images: bytes, says: str, packed: bool) -> None:
    with pytest.raises(DatasetError, match=f"{IMAGES}.*{says}") as told:
        read_digits(write(tmp_path, images, idx(made().labels), packed), "train")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "damage", [lambda packed: packed[:-9], lambda packed: packed[:40] + b"\xff" * 9 + packed[49:], lambda _: GOOD]
)
def test_a_damaged_archive_is_refused_in_a_line(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    write(tmp_path, GOOD, idx(made().labels), packed=True)
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetError, match=r"ubyte\.gz (cannot be read|should hold|begins)"):
        read_digits(tmp_path, "train")


def test_files_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="labels 39 digits, but train-images-idx3-ubyte has 40"):
        read_digits(write(tmp_path, GOOD, idx(made().labels[:-1])), "train")
    with pytest.raises(DatasetError, match="holds the label 10; digits are 0 to 9"):
        read_digits(write(tmp_path, GOOD, idx(made().labels + 1)), "train")
    with pytest.raises(DatasetError, match=r"no t10k-images-idx3-ubyte or t10k-images-idx3-ubyte\.gz here"):
        read_digits(tmp_path, "test")
    with pytest.raises(DatasetError, match="no split 'validation'; choose one of train, test"):
        read_digits(tmp_path, "validation")


@pytest.mark.parametrize("balanced", [False, True])
def test_labels_are_those_of_the_digits_in_the_bag(balanced: bool) -> None:
    for bag in make_bags(made(), 60, 6, 1, balanced):
        assert bag.instances.shape[1:] == (4, 5, 3)
        digits = bag.instances[:, 0, 0, 0] // 20
        assert bag.instance_labels is not None
        assert bag.instance_labels.dtype == np.int64
        assert np.array_equal(bag.instance_labels, digits == 9)
        assert bag.label == (9 in digits)
        assert CLASSES[bag.label] == ("nine" if 9 in digits else "other")
        assert (bag.instances == bag.instances[:, :1, :1, :1]).all()
        assert bag.positions is None


def test_balanced_bags_are_half_positive_and_no_larger_than_negative_ones() -> None:
    bags = make_bags(made(), 2000, 4, 3, balanced=True)
    assert [bag.label for bag in bags] == [0, 1] * 1000
    sizes = np.array([len(bag.instances) for bag in bags])
    assert abs(sizes[::2].mean() - sizes[1::2].mean()) < 0.5
    assert sizes.min() == 1


def test_natural_bags_are_positive_as_often_as_chance_has_it() -> None:
    bags = make_bags(made(), 2000, 20, 3, balanced=False)
    sizes = np.array([len(bag.instances) for bag in bags])
    assert np.mean([bag.label for bag in bags]) == pytest.approx(np.mean(1 - 0.9**sizes), abs=0.025)
    assert sizes.mean() == pytest.approx(20, abs=0.4)
    assert sizes.std() == pytest.approx(5, abs=0.3)
    narrow = [len(bag.instances) for bag in make_bags(made(), 2000, 20, 3, False, deviation=5**0.5)]
    assert np.var(narrow) == pytest.approx(5, abs=0.5)


@pytest.mark.parametrize("balanced", [False, True])
def test_bags_are_those_of_their_seed_however_many(balanced: bool) -> None:
    few, many, other = (make_bags(made(), count, 8, seed, balanced) for count, seed in ((10, 5), (30, 5), (10, 6)))
    assert all(np.array_equal(one.instances, two.instances) for one, two in zip(few, many, strict=False))
    assert not all(np.array_equal(one.instances, two.instances) for one, two in zip(few, other, strict=True))
    names = [bag.name for bag in (*many, *other)]
    assert len(set(names)) == len(names)
    assert [bag.group for bag in many] == [bag.name for bag in many]


def test_bags_of_nines_alone_cannot_be_balanced() -> None:
    digits = made()
    for wanted, told in ((digits.labels == 9, "all"), (digits.labels != 9, "never")):
        with pytest.raises(DatasetError, match=f"the train digits are {told} 9: nothing to balance"):
            make_bags(Digits("train", digits.images[wanted], digits.labels[wanted]), 4, 5, 1, balanced=True)


def test_mnist_is_as_published() -> None:
    if "GLASSRT_DATA" not in os.environ:
        pytest.skip("GLASSRT_DATA is not set: it names the folder that holds mnist/ with MNIST's files")
    folder = Path(os.environ["GLASSRT_DATA"])
    train, test = (read_digits(folder, split) for split in ("train", "test"))
    assert (train.images.shape, test.images.shape) == ((60000, 28, 28), (10000, 28, 28))
    assert ((train.labels == 9).sum(), (test.labels == 9).sum()) == (5949, 1009)
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in test.images}
    for size, share in ((10, 0.60), (20, 0.86)):
        assert np.mean([bag.label for bag in make_bags(test, 1000, size, 0, False)]) == pytest.approx(share, abs=0.03)
