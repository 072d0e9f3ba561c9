"""Mosaic slides: what they are made of, and that the class of every pixel is right."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from command_line import run
from painted_mosaic import CELL, CELLS, make_small, paint_graded

from glassrt.engine.errors import DatasetError, OutputError
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.geometry.views import shrink
from glassrt.engine.slides.readers import open_slide
from glassrt.training.datasets import mosaic

SIDE = CELL * CELLS


@pytest.fixture(scope="module")
def glas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_graded(tmp_path_factory.mktemp("glas"))


@pytest.fixture(scope="module")
def made(glas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small(glas, tmp_path_factory.mktemp("mosaics") / "coherent")


def whole(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A slide's pixels and classes at level 0."""
    (slide,) = (each for each in mosaic.find_slides(folder, name.split("_")[0]) if each.name == name)
    with open_slide(slide.path) as opened:
        pixels = opened.read_level(0, (0, 0), opened.levels[0].size)
    return pixels, slide.truth.cut(Box(0, 0, SIDE, SIDE), (SIDE, SIDE))


def test_slides_are_pyramids_at_the_resolution_of_glas(made: Path) -> None:
    with open_slide(made / "train_1.tif") as slide:
        assert slide.mpp == pytest.approx(0.62005, rel=1e-4)
        assert [level.size for level in slide.levels] == [(512, 512), (256, 256)]


def test_every_pixel_has_the_class_that_it_is_painted_in(made: Path) -> None:
    """Glands are painted in the blue of their grade, so the picture tells its own truth, but for a line of JPEG."""
    pixels, classes = whole(made, "train_1")
    blue, gland = pixels[..., 2].astype(int), pixels[..., 1] < 110
    assert (gland == (classes > 0)).mean() > 0.98
    for number, blues in {1: [60], 2: [100], 3: [140, 180]}.items():
        seen = blue[(classes == number) & gland]
        assert np.abs(seen[:, None] - blues).min(1).mean() < 12
        assert seen.size > 1000


@pytest.mark.parametrize("layout", mosaic.LAYOUTS)
def test_regions_have_one_grade_in_the_coherent_layout_alone(glas: Path, tmp_path: Path, layout: str) -> None:
    made = make_small(glas, tmp_path / layout, layout)
    _, classes = whole(made, "train_2")
    region = mosaic.REGION * CELL
    found = [
        set(np.unique(classes[top : top + region, left : left + region]).tolist()) - {0}
        for top in range(0, SIDE, region)
        for left in range(0, SIDE, region)
    ]
    assert len(found) == 4
    assert all((len(grades) == 1) == (layout == "coherent") for grades in found)


def test_test_slides_are_made_of_test_images_alone(made: Path) -> None:
    for name, shade in (("train_1", 200), ("train_2", 200), ("test_1", 120)):
        pixels, classes = whole(made, name)
        assert np.abs(pixels[..., 0][classes == 0].astype(int) - shade).mean() < 12
    told = json.loads((made / mosaic.INDEX).read_text())
    assert told["patients_of_test_that_are_in_train"] == ["12", "13", "14", "15"]
    assert told["layout"] == "coherent"


def test_a_seed_gives_the_same_slides(glas: Path, made: Path, tmp_path: Path) -> None:
    again, other = make_small(glas, tmp_path / "again"), make_small(glas, tmp_path / "other", seed=2)
    for name in ("train_1.tif", "test_1_classes.png"):
        assert (again / name).read_bytes() == (made / name).read_bytes()
        assert (other / name).read_bytes() != (made / name).read_bytes()


def test_classes_are_those_at_the_middles_of_a_grids_pixels(made: Path) -> None:
    _, classes = whole(made, "train_1")
    (slide, *_) = mosaic.find_slides(made, "train")
    grid, box = (SIDE * 3 // 4, SIDE * 3 // 4 + 1), Box(37, 11, 90, 60)
    found = slide.truth.cut(box, grid)
    assert found.shape == (49, 53)
    for row, column in ((0, 0), (48, 52), (20, 7)):
        x, y = (37 + column + 0.5) * SIDE / grid[0], (11 + row + 0.5) * SIDE / grid[1]
        assert found[row, column] == classes[int(y), int(x)]


@pytest.mark.parametrize("part", [np.s_[: SIDE // 2], np.s_[:, : SIDE // 2], np.s_[: SIDE * 9 // 10]])
def test_a_map_of_part_of_its_slide_is_refused(made: Path, tmp_path: Path, part: Any) -> None:
    classes = cv2.imread(str(made / "train_1_classes.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(tmp_path / "part.png"), classes[part])
    for side in (SIDE, SIDE // 3, 40):
        with pytest.raises(DatasetError, match=rf"part\.png has \d+ x \d+ .* its slide \({side} x {side}\): make"):
            mosaic.ClassMap(tmp_path / "part.png").cut(Box(0, 0, 9, 9), (side, side))
    cv2.imwrite(str(tmp_path / "narrow.png"), classes[:101])
    for factor in (1.0, 1.7, 4.0, 33.3, 600.0):
        assert mosaic.ClassMap(tmp_path / "narrow.png").cut(Box(0, 0, 1, 1), shrink((SIDE, 101), factor)).shape == (
            1,
            1,
        )


def test_a_map_that_cannot_be_written_leaves_nothing(
    glas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mosaic.cv2, "imwrite", lambda path, pixels: False)
    with pytest.raises(OutputError, match=r"out: train_1_classes\.png cannot be written; free some space or choose"):
        make_small(glas, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_slides_whose_maps_could_not_be_read_are_not_made(glas: Path, tmp_path: Path) -> None:
    done = run("mosaic", "--data", glas, "--out", tmp_path / "out", "--side", 64)
    assert done.returncode == 2
    assert "60" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_header_may_hold_spaces_and_a_mark_of_its_encoding(glas: Path, tmp_path: Path, encoding: str) -> None:
    header, *rows = (glas / "Grade.csv").read_text().splitlines()
    spaced = ",".join(f"{name.strip()} " for name in header.split(","))
    (tmp_path / "Grade.csv").write_text("\n".join([spaced, *rows]), encoding=encoding)
    assert mosaic.read_grades(tmp_path) == mosaic.read_grades(glas)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "long"])
def test_a_table_that_is_none_is_refused_in_a_line(glas: Path, tmp_path: Path, encoding: str) -> None:
    content = (glas / "Grade.csv").read_text() + (
        "x" * 200_000 if encoding == "long" else "train_99,M\u00fcller, , healthy"
    )
    (tmp_path / "Grade.csv").write_bytes(content.encode("utf-8" if encoding == "long" else encoding))
    with pytest.raises(
        DatasetError, match=r"Grade\.csv cannot be read as a table in UTF-8 \(.*\); unpack the set again"
    ) as told:
        mosaic.read_grades(tmp_path)
    assert "\n" not in str(told.value)


def test_what_cannot_be_made_is_told_in_a_line(glas: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no Grade\.csv here"):
        mosaic.make_mosaics(tmp_path, tmp_path / "out", "coherent", {"train": 1}, 8, 1)
    with pytest.raises(DatasetError, match="6 images to a side are no whole number of regions of 4"):
        mosaic.make_mosaics(glas, tmp_path / "out", "coherent", {"train": 1}, 6, 1)
    with pytest.raises(DatasetError, match="no image of a grade fills 512 pixels"):
        mosaic.make_mosaics(glas, tmp_path / "out", "coherent", {"train": 1}, 8, 1)
    with pytest.raises(DatasetError, match="no split 'testA'"):
        mosaic.find_slides(tmp_path, "testA")
    with pytest.raises(DatasetError, match=r"no train_\*\.tif here; make them with `glassrt mosaic"):
        mosaic.find_slides(tmp_path, "train")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("train_1,3, benign, unheard of", "has the grade 'unheard of'"),
        ("name,patient ID\ntrain_1,3", "no column 'grade"),
    ],
)
def test_a_damaged_table_of_grades_is_refused(glas: Path, tmp_path: Path, row: str, fault: str) -> None:
    header = (glas / "Grade.csv").read_text().splitlines()[0]
    (tmp_path / "Grade.csv").write_text(row if row.startswith("name") else f"{header}\n{row}\n")
    with pytest.raises(DatasetError, match=fault):
        mosaic.read_grades(tmp_path)
