"""What teachers say is stored as they say it, and drawn where it belongs."""

import shutil
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import small_bundle

from glassrt.engine.geometry.boxes import Box
from glassrt.engine.maps.mapfile import MapFile
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.tasks.segment import map_image
from glassrt.training import teachers
from glassrt.training.metrics import IGNORE
from glassrt.training.soft_maps import open_map, write_map
from glassrt.training.soft_views import Look, SoftViews
from glassrt.training.teachers import Planned, Source, open_teachers


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two teachers that differ, with contours."""
    folder = tmp_path_factory.mktemp("teachers")
    first = small_bundle.make_bundle(folder / "one.glass", contours=True)
    shutil.copytree(first, folder / "two.glass")
    small_bundle.write_manifest(folder / "two.glass", small_bundle.read_manifest(first) | {"scales": [1.0]})
    return [first, folder / "two.glass"]


def test_stored_maps_are_the_average_of_what_the_engine_makes(pair: list[Path], painted: Path, tmp_path: Path) -> None:
    taught = open_teachers(pair, None, None)
    source = Source(painted / "train_1.bmp", 0.5, True)
    planned = teachers.plan_map(source, taught, 0.5, tmp_path)
    with teachers.running(taught) as backends:
        teachers.make_map(planned, taught, backends)
    assert [each.name for each in tmp_path.iterdir()] == [planned.path.name]
    soft = open_map(planned.path)
    width, height = soft.about.size
    planes = soft.read(Box(0, 0, width, height))
    assert planes.shape == (4, height, width)
    assert (planes[0] == 255).all()
    maps = []
    for bundle in taught.bundles:
        with open_slide(source.path, 0.5) as slide, closing(open_backend(bundle, "ort")) as backend:
            maps.append(map_image(slide.pixels, 0.5, bundle, backend, (width, height)))
    contour = np.mean([each.contour for each in maps], axis=0)
    inside = np.mean([each.probabilities[1] for each in maps], axis=0) - contour
    assert np.abs(planes[1] - 255 * inside).max() < 1.6  # rounded to bytes twice
    assert np.abs(planes[2] - 255 * contour).max() < 1.1
    split = [np.stack([1 - p[1], p[1] - c, c]) for p, c in maps]
    apart = np.abs(split[0] - split[1]).sum(axis=0) / 2
    assert np.abs(planes[3] - 255 * apart).max() < 3
    assert planes[3].max() > 20


def test_parts_of_a_map_are_those_of_the_whole(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    content = random.integers(0, 256, (2, 600, 530), dtype=np.uint8)
    content[0] = random.random((600, 530)) < 0.5
    content[0, :256, 256:512] = 255  # a tile where nobody looked
    content[0, 300:310, 7:9] = 255
    with MapFile(tmp_path / "raw", 2, 600, 530) as file:
        file.write_rows(0, content)
        write_map(tmp_path / "a.map", "so", [file])
    soft = open_map(tmp_path / "a.map")
    whole = soft.read(Box(0, 0, 530, 600))
    assert np.array_equal(whole[0] == 255, content[0] != 255)
    assert np.array_equal(whole[1], np.where(content[0] == 255, 0, content[1]))
    assert not whole[2].any()
    for _ in range(30):
        left, right = np.sort(random.choice(531, 2, replace=False)).tolist()
        top, bottom = np.sort(random.choice(601, 2, replace=False)).tolist()
        assert np.array_equal(soft.read(Box(left, top, right, bottom)), whole[:, top:bottom, left:right])


@pytest.mark.parametrize("factor", [1, 4])
@pytest.mark.parametrize("rotate", [False, True])
def test_labels_stay_on_what_they_are_of(tmp_path: Path, rotate: bool, factor: int) -> None:
    """A map, and a mask, made of a picture's brightness must be those of the view, too; outside counts nothing."""
    rows, columns = np.indices((160, 208))
    level = (127 + 60 * np.sin(rows / 19) + 60 * np.cos(columns / 23)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), np.stack([level // 2 + 90, level, level // 2 + 90], axis=2))
    small = cv2.resize(level, (208 // factor, 160 // factor), interpolation=cv2.INTER_AREA)
    with MapFile(tmp_path / "raw", 2, *small.shape) as file:
        file.write_rows(0, np.stack([np.zeros_like(small), small]))
        write_map(tmp_path / "a.map", "so", [file])
    planned = Planned(Source(tmp_path / "a.png", 0.5, True, 0), tmp_path / "a.map", "so", small.shape[::-1], (208, 160))
    look = Look(0.5, 64, (0.7, 1.4), rotate, "none", 0.0, 1)
    views = SoftViews([planned], [(level > 127).astype(np.uint8)], look)
    beyond = 0
    for number in range(30):
        pixels, label, _ = views.draw(number, np.random.default_rng(number))
        said, weight, mask = label
        known = weight == 255
        assert set(np.unique(weight)) <= {0, 255}
        assert np.abs(said.astype(int) - pixels[..., 1])[known].max() <= (2 if factor == 1 else 12)
        inner = known & (mask != IGNORE)
        assert ((pixels[..., 1] > 127) == mask)[inner].mean() > 0.97
        assert (known == (mask != IGNORE)).mean() > 0.96
        beyond += (~known).sum()
    assert beyond > 1000


def test_pixels_that_teachers_disagree_on_count_less(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 64, 3), (200, 120, 180), np.uint8))
    files = []
    for number, value in enumerate((51, 204)):
        file = MapFile(tmp_path / f"raw{number}", 2, 64, 64)
        file.write_rows(0, np.stack([np.zeros((64, 64), np.uint8), np.full((64, 64), value, np.uint8)]))
        files.append(file)
    write_map(tmp_path / "a.map", "so", files)
    planned = Planned(Source(tmp_path / "a.png", 0.5, True), tmp_path / "a.map", "so", (64, 64), (64, 64))
    views = SoftViews([planned], [], Look(0.5, 32, (1.0, 1.0), False, "none", 0.5, 1))
    said, weight, mask = views.draw(0, np.random.default_rng(0)).label
    assert set(np.unique(weight[weight > 0])) == {round(255 - 0.5 * 153)}
    assert set(np.unique(said)) == {128}
    assert (mask == IGNORE).all()
