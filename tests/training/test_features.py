"""Features of one's own slides: what the table and the files have to be, and that reading in parts reads all."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from stored_slides import LENGTH, store_slide, store_slides

from glassrt.engine.bundles.parts import Making
from glassrt.engine.errors import DatasetError, GlassError, SlideError
from glassrt.training.bag_statistics import LEAST, measure
from glassrt.training.datasets import stored
from glassrt.training.datasets.features import find_making, read_bags
from glassrt.training.datasets.stored import StoredInstances

CLASSES = ("benign", "malign")
LAYOUTS = ("trident", "clam", "stamp")


def all_of(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        table: np.ndarray = (file["feats"] if "feats" in file else file["features"])[:]
    return table


def open_instances(folder: Path, name: str = "slide_0") -> StoredInstances:
    (found,) = (bag.instances for bag in read_bags(folder, CLASSES) if bag.name == f"h5/{name}")
    assert isinstance(found, StoredInstances)
    return found


@pytest.mark.parametrize(
    ("layout", "making"),
    [
        ("trident", Making("made", 512, 1.0)),
        ("clam", Making(None, None, None)),
        ("stamp", Making("made", 224, 0.5)),
    ],
)
def test_slides_are_bags_in_the_table_s_order(tmp_path: Path, layout: str, making: Making) -> None:
    store_slides(tmp_path, CLASSES, 2, layout)
    (tmp_path / "labels.csv").write_text(
        "\ufefflabel, group, slide, note\nmalign,,h5/slide_1,x\nbenign,p,h5/slide_0.h5,\nbenign,p ,h5/slide_2,"
    )
    bags = read_bags(tmp_path, CLASSES)
    assert [bag.name for bag in bags] == ["h5/slide_1", "h5/slide_0", "h5/slide_2"]
    assert [bag.label for bag in bags] == [1, 0, 0]
    assert [bag.group for bag in bags] == ["h5/slide_1", "p", "p"]
    assert [bag.instances.shape for bag in bags] == [all_of(tmp_path / f"{bag.name}.h5").shape for bag in bags]
    assert [bag.label for bag in read_bags(tmp_path, CLASSES[::-1])] == [0, 1, 1]
    assert find_making(bags) == making


def table(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "labels.csv").write_text(text)


def file(name: str, features: np.ndarray, layout: str = "trident") -> Callable[[Path], object]:
    return lambda folder: store_slide(folder / "h5" / f"{name}.h5", features, layout)


def scaled(folder: Path) -> None:
    with h5py.File(folder / "h5" / "slide_2.h5", "a") as changed:
        changed["coords"].attrs["target_magnification"] = 20


def named(folder: Path) -> None:
    for number, name in enumerate(("uni", "uni", "ctranspath")):
        with h5py.File(folder / "h5" / f"slide_{number}.h5", "a") as changed:
            changed["features"].attrs["encoder"] = name


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda folder: (folder / "labels.csv").unlink(), "no labels.csv here; it needs the columns slide and label"),
        (table("slide,class\nh5/slide_0,benign"), "no column 'label'"),
        (
            table("slide,label\nh5/slide_0,benign\nh5/none,malign"),
            "slide 2: there is no file 'h5/none' or 'h5/none.h5'",
        ),
        (table("slide,label\nh5/slide_0,benign\n,malign"), "slide 2: there is no file ''"),
        (table("slide,label\nh5/slide_0,Benign"), "label 'Benign' is none of the classes, benign, malign"),
        (table("slide,label\nh5/slide_0\nh5/slide_1,malign"), "slide 1: the label '' is none"),
        (table("slide,label\nh5/slide_0,benign\nh5/slide_2,benign"), "has no slide of the class 'malign'"),
        (table("slide,label\n"), "has no slide of the class 'benign'"),
        (table("slide,label\nh5/slide_0,benign\nh5/slide_0.h5,malign"), "'h5/slide_0.h5' is slide 1 already"),
        (table("slide,label\nlabels.csv,benign"), "labels.csv is not opened as HDF5"),
        (
            file("slide_1", np.zeros((5, 9))),
            "slide_0.h5 has features of 24 numbers, .*slide_1.h5 features of 9 numbers",
        ),
        (file("slide_3", np.zeros((0, LENGTH)), "stamp"), "slide_3.h5 holds no features"),
        (file("slide_2", np.zeros(LENGTH)[None, None], "stamp"), r"slide_2.h5: feats \[1, 1, 24\]"),
        (scaled, "slide_0.h5 has tiles at 1 micrometres per pixel, .*slide_2.h5 tiles at 0.5 micrometres"),
        (named, "slide_0.h5 has features by 'uni', .*slide_2.h5 features by 'ctranspath': embed all slides alike"),
    ],
)
def test_what_is_no_set_is_refused_in_a_line(tmp_path: Path, spoil: Callable[[Path], object], fault: str) -> None:
    store_slides(tmp_path, CLASSES, 2)
    spoil(tmp_path)
    with pytest.raises(GlassError, match=fault) as told:
        read_bags(tmp_path, CLASSES)
    assert isinstance(told.value, DatasetError | SlideError)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_rows_are_read_as_they_are_stored(
    tmp_path: Path, layout: str, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_slides(tmp_path, CLASSES, 1, layout, half)
    instances, every = open_instances(tmp_path), all_of(tmp_path / "h5" / "slide_0.h5").astype(np.float32)
    random = np.random.default_rng(1)
    count = len(every)
    for wanted in (1, 2, count // 2, count):
        chosen = np.sort(random.choice(count, wanted, replace=False))
        found = instances.read(chosen)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, every[chosen])
    np.testing.assert_array_equal(instances.read(slice(None)), every)
    np.testing.assert_array_equal(instances.read(slice(-1, None)), every[-1:])
    monkeypatch.setattr(stored, "PART", 13)
    parts = [*instances.parts()]
    assert max(map(len, parts)) == 13
    np.testing.assert_array_equal(np.concatenate(parts), every)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_what_is_no_number_is_told_with_its_tile(tmp_path: Path, value: float) -> None:
    store_slides(tmp_path, CLASSES, 1)
    path = tmp_path / "h5" / "slide_0.h5"
    features = all_of(path).astype(np.float64)
    features[11, 3] = value
    with h5py.File(path, "w") as changed:
        changed["features"], changed["coords"] = features, np.zeros((len(features), 2))
    instances = open_instances(tmp_path)
    for chosen in (slice(None), slice(5, 20), np.array([2, 11, 12])):
        with pytest.raises(DatasetError, match=r"slide_0\.h5: the features of tile 11 hold NaN or infinity"):
            instances.read(chosen)
    assert instances.read(np.array([10, 12])).shape == (2, LENGTH)
    with pytest.raises(DatasetError, match="tile 11"):
        measure(read_bags(tmp_path, CLASSES))


def test_files_that_change_meanwhile_are_told(tmp_path: Path) -> None:
    store_slides(tmp_path, CLASSES, 1)
    instances = open_instances(tmp_path)
    store_slide(instances.path, np.zeros((3, LENGTH)))
    with pytest.raises(DatasetError, match=r"slide_0\.h5 was replaced by another file"):
        instances.read(slice(None))
    instances.path.unlink()
    with pytest.raises(SlideError, match=r"slide_0\.h5 is not opened"):
        instances.read(slice(None))


def test_statistics_in_parts_are_those_of_all_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_slides(tmp_path, CLASSES, 3)
    monkeypatch.setattr(stored, "PART", 17)
    every = np.concatenate([all_of(path) for path in (tmp_path / "h5").iterdir()]).astype(np.float64)
    found = measure(read_bags(tmp_path, CLASSES))
    np.testing.assert_allclose(found.mean, every.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.deviation[:-1], every.std(0)[:-1], rtol=1e-5)
    np.testing.assert_array_equal(found.range.lowest, every.min(0).astype(np.float32))
    np.testing.assert_array_equal(found.range.highest, every.max(0).astype(np.float32))
    assert every.std(0)[-1] == 0  # a dead feature, which is divided by what others are
    assert found.deviation[-1] == pytest.approx(np.median(every.std(0)[:-1]), rel=1e-5)


def test_small_changes_around_a_large_mean_are_measured(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        store_slide(tmp_path / f"{name}.h5", 4096 + random.integers(0, 2, (5000, 3)) / 1024 + number / 1024)
    (tmp_path / "labels.csv").write_text("slide,label\nbenign,benign\nmalign,malign\n")
    found = measure(read_bags(tmp_path, CLASSES))
    every = np.concatenate([all_of(tmp_path / f"{name}.h5") for name in CLASSES]).astype(np.float64)
    np.testing.assert_allclose(found.deviation, every.std(0), rtol=1e-6)


@pytest.mark.parametrize(
    ("columns", "deviations"),
    [
        ([[0.1] * 8, [7.0] * 8, [0.0] * 8], [1, 1, 1]),
        ([[0.1] * 8, [0.3] * 8, [1.0, 3.0] * 4], [1, 1, 1]),
        ([[0.1] * 8, [-2.0, 2.0] * 4, [1.0, 1.0 + 2**-20] * 4], [0.5 * (2 + 2**-21)] * 1 + [2, LEAST]),
    ],
)
def test_features_that_hardly_change_are_not_blown_up(tmp_path: Path, columns: list, deviations: list) -> None:
    for name in CLASSES:
        store_slide(tmp_path / f"{name}.h5", np.array(columns).T)
    (tmp_path / "labels.csv").write_text("slide,label\nbenign,benign\nmalign,malign\n")
    found = measure(read_bags(tmp_path, CLASSES))
    assert found.deviation.tolist() == pytest.approx(deviations, rel=1e-3)
