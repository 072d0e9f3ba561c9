"""Weak mosaics: which images benign and malign slides are made of, and that labels and maps say so."""

import json
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import assert_one_line, run
from painted_mosaic import CELL, CELLS, make_weak, number_images, paint_graded, read_number

from glassrt.engine.errors import DatasetError
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.slides.readers import open_slide
from glassrt.training.datasets import mosaic, weak_mosaic
from glassrt.training.datasets.weak import WeakSlide

SIDE = CELL * CELLS
MALIGNANT = {3, 4, 7, 8, 11, 12, 15, 16}  # whose grade is differentiated, of 1 to 16


@pytest.fixture(scope="module")
def glas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return number_images(paint_graded(tmp_path_factory.mktemp("glas")))


@pytest.fixture(scope="module")
def made(glas: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mosaics")
    return {layout: make_weak(glas, folder / layout, layout, 6, 5) for layout in weak_mosaic.LAYOUTS}


def look(slide: WeakSlide) -> tuple[np.ndarray, np.ndarray]:
    """The number of the image in each cell of a slide, and the class of each pixel of level 0."""
    with open_slide(slide.path, slide.mpp) as opened:
        pixels = opened.read_level(0, (0, 0), opened.levels[0].size)
    assert pixels.shape == (SIDE, SIDE, 3)
    cells = pixels.reshape(CELLS, CELL, CELLS, CELL, 3).swapaxes(1, 2)
    numbers = np.array([[read_number(cell) for cell in row] for row in cells])
    assert slide.truth is not None
    return numbers, slide.truth.cut(Box(0, 0, SIDE, SIDE), (SIDE, SIDE))


@pytest.mark.parametrize("layout", weak_mosaic.LAYOUTS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_truth_and_label_say_what_a_slide_is_made_of(made: dict[str, Path], layout: str, split: str) -> None:
    slides = weak_mosaic.find_slides(made[layout], split)
    assert [slide.name for slide in slides] == [f"{split}_{n + 1}" for n in range(6 if split == "train" else 5)]
    assert [slide.malign for slide in slides] == [False, True] * (len(slides) // 2) + [False] * (len(slides) % 2)
    used = defaultdict(set)
    for slide in slides:
        numbers, classes = look(slide)
        bad = np.isin(numbers, list(MALIGNANT))
        assert np.array_equal(classes, np.kron(bad, np.ones((CELL, CELL), np.uint8))), slide.name
        assert bad.any() == slide.malign, slide.name
        used[slide.malign] |= set(numbers[~bad].tolist())
    benign = set(range(1, 17)) - MALIGNANT
    if layout != "weak-disjoint":
        assert used[False] == used[True] == benign
    else:
        assert used[False] | used[True] == benign
        assert not used[False] & used[True]
        assert len(used[False]) == len(used[True]) == 4
        # healthy images have numbers 1, 5, 9 and 13: both halves have two of them
        assert len(used[False] & {1, 5, 9, 13}) == 2


@pytest.mark.parametrize(("layout", "sizes_of_64", "mean"), [("weak", (3, 19), 11), ("weak-small", (3, 6), 4.8)])
def test_lesions_are_a_share_of_a_slide_in_few_pieces(layout: str, sizes_of_64: tuple[int, int], mean: float) -> None:
    sizes, pieces = [], []
    for seed in range(300):
        grown = weak_mosaic.grow_lesions(8, weak_mosaic.SHARES[layout], np.random.default_rng(seed))
        sizes.append(int(grown.sum()))
        pieces.append(cv2.connectedComponents(grown.astype(np.uint8), connectivity=4)[0] - 1)
    assert (min(sizes), max(sizes)) == sizes_of_64
    assert np.mean(sizes) == pytest.approx(mean, rel=0.1)
    assert set(pieces) == {1, 2, 3}
    assert weak_mosaic.grow_lesions(2, weak_mosaic.SHARES[layout], np.random.default_rng(0)).sum() == 1


def test_images_come_again_only_when_all_others_have_come(glas: Path, made: dict[str, Path]) -> None:
    numbers, _ = look(weak_mosaic.find_slides(made["weak"], "train")[0])
    _, counts = np.unique(numbers, return_counts=True)
    assert counts.tolist() == [CELLS**2 // 8] * 8


def test_the_index_says_what_is_shared(made: dict[str, Path]) -> None:
    for layout, folder in made.items():
        told = json.loads((folder / mosaic.INDEX).read_text())
        assert (told["layout"], told["classes"]) == (layout, ["benign", "malign"])
        assert told["benign_images_are_shared_by_both_labels"] == (layout != "weak-disjoint")
        assert told["patients_of_test_that_are_in_train"] == ["12", "13", "14", "15"]
        for slide in weak_mosaic.find_slides(folder, "train"):
            assert (told["malignant_images_of_slides"][slide.name] > 0) == slide.malign


def test_a_seed_gives_the_same_slides(glas: Path, made: dict[str, Path], tmp_path: Path) -> None:
    again, other = make_weak(glas, tmp_path / "again", "weak", 6, 5), make_weak(glas, tmp_path / "other", seed=2)
    for name in ("train_2.tif", "train_2_classes.png", "test_1.tif"):
        assert (again / name).read_bytes() == (made["weak"] / name).read_bytes()
    assert (other / "test_1.tif").read_bytes() != (again / "test_1.tif").read_bytes()


def test_test_slides_are_made_of_test_images_alone(glas: Path, made: dict[str, Path]) -> None:
    for split, shade in (("train", 200), ("test", 120)):
        for slide in weak_mosaic.find_slides(made["weak"], split):
            with open_slide(slide.path) as opened:
                pixels = opened.read_level(0, (0, 0), opened.levels[0].size)
            assert abs(np.percentile(pixels[..., 0], 90) - shade) < 12


def test_maps_need_their_classes(made: dict[str, Path], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grades.png"), np.full((8, 8), 2, np.uint8))
    with pytest.raises(DatasetError, match=r"grades\.png is missing or no map of 2 classes"):
        mosaic.ClassMap(tmp_path / "grades.png", 2).cut(Box(0, 0, 1, 1), (64, 64))
    assert mosaic.ClassMap(tmp_path / "grades.png").cut(Box(0, 0, 1, 1), (64, 64)) == 2


def test_what_cannot_be_made_or_found_is_told_in_a_line(glas: Path, made: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="1 slide to test has one label: weak mosaics need 2"):
        make_weak(glas, tmp_path / "out", train=2, test=1)
    with pytest.raises(DatasetError, match="1 image to a side leaves no room"):
        weak_mosaic.make_weak_mosaics(glas, tmp_path / "out", "weak", {"train": 2}, 1, 1)
    assert not (tmp_path / "out").exists()
    with pytest.raises(DatasetError, match="no split 'testA'; choose one of train, test"):
        weak_mosaic.find_slides(made["weak"], "testA")
    with pytest.raises(DatasetError, match=r"no labels\.csv here; make weak mosaics: `glassrt mosaic --layout weak"):
        weak_mosaic.find_slides(tmp_path, "train")
    with pytest.raises(DatasetError, match="holds weak mosaics, which have labels of slides"):
        mosaic.find_slides(made["weak"], "train")
    for name in ("a.tif", "b.tif"):
        (tmp_path / name).touch()
    (tmp_path / "labels.csv").write_text("slide,label\na.tif,benign\nb.tif,malign\n")
    with pytest.raises(DatasetError, match=r"labels\.csv lists no slide train_1\.tif or others"):
        weak_mosaic.find_slides(tmp_path, "train")


def test_too_few_benign_images_are_not_halved(glas: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mosaic, "CELL", CELL)
        tissue = mosaic.load_tissue(glas, "train", mosaic.read_grades(glas)[0])
    few = [next(each for each in tissue if each.grade == 1)]
    with pytest.raises(DatasetError, match="one benign image cannot be halved"):
        weak_mosaic.choose_pools(few, "weak-disjoint", np.random.default_rng(0))


def test_the_command_serves_every_layout(data: Path, tmp_path: Path) -> None:
    """On the real images: its defaults are those of the layout, and a weak set takes the place of another."""
    out = tmp_path / "out"
    done = run("mosaic", "--data", data, "--out", out, "--layout", "random", "--side", 1, "--train", 1, "--test", 1)
    assert done.returncode == 0, done.stderr
    assert "train da-refinenet" in done.stdout
    done = run("mosaic", "--data", data, "--out", out, "--layout", "weak-disjoint", "--side", 2, "--train", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: 50 slides; train on them with `glassrt train beta-kl")
    assert len(weak_mosaic.find_slides(out, "test")) == 48
    done = run("mosaic", "--data", data, "--out", out, "--layout", "strong")
    assert_one_line(done, 2, "--layout strong is not known; choose one of coherent, random, weak, weak-disjoint")
    done = run("mosaic", "--data", data, "--out", out, "--layout", "weak", "--test", 1)
    assert_one_line(done, 2, "1 slide to test has one label")
