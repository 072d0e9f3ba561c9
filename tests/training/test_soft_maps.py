"""What teachers say is stored as they say it, and drawn where it belongs."""

import re
import resource
import shutil
import subprocess
import sys
import zipfile
from collections import namedtuple
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import small_bundle

from glassrt.engine.errors import OutputError, TrainingError
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.maps.mapfile import MapFile
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.tasks.segment import map_image
from glassrt.training import teachers
from glassrt.training.mapping import find_tissue
from glassrt.training.metrics import IGNORE
from glassrt.training.soft_maps import join, open_map, write_map
from glassrt.training.soft_views import Look, SoftViews, find_squares
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
        assert (known == (mask != IGNORE)).mean() > 0.94
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


def make_file(folder: Path, content: np.ndarray) -> Path:
    with MapFile(folder / "raw", 2, *content.shape[1:]) as file:
        file.write_rows(0, content)
        write_map(folder / "a.map", "so", [file])
    return folder / "a.map"


def test_damage_is_told_or_harmless_wherever_it_is(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = make_file(tmp_path, random.integers(0, 4, (2, 300, 300), dtype=np.uint8))
    whole, sound = Box(0, 0, 300, 300), path.read_bytes()
    planes = open_map(path).read(whole)
    told = []
    headers = [place for place in range(len(sound)) if sound[place : place + 2] == b"PK"]
    for number in range(1500):
        damaged = bytearray(sound)
        near = random.choice(headers) + random.integers(0, 60) if number % 3 else random.integers(0, len(sound))
        damaged[min(near, len(sound) - 1)] = random.integers(0, 256)
        path.write_bytes(damaged)
        try:
            assert np.array_equal(open_map(path).read(whole), planes)
        except TrainingError as error:
            told.append(str(error))
    assert len(told) > 500
    line = re.compile(r"\S+a\.map is damaged \(.+\): delete it, and the map is made anew")
    assert all(line.fullmatch(each) for each in told)


def test_a_tile_that_is_missing_is_damage(tmp_path: Path) -> None:
    path = make_file(tmp_path, np.ones((2, 300, 300), np.uint8))
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    for lost, added in (("1-1", None), ("1-1", "1-2"), (None, "0-1x")):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in parts.items():
                if name != lost:
                    file.writestr(name, content)
            if added:
                file.writestr(added, parts["1-1"])
        with pytest.raises(TrainingError, match="its tiles are not those that it should hold"):
            open_map(path)


def test_a_sound_map_that_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    path = make_file(tmp_path, np.ones((2, 30, 30), np.uint8))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"a\.map cannot be read \(Too many open files\)"):
            open_map(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


TOO_LARGE = """
import resource, signal, sys
from pathlib import Path
from glassrt.engine.errors import OutputError
from glassrt.training import teachers
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
taught = teachers.open_teachers([Path(sys.argv[1])], (1.0,), False)
planned = teachers.plan_map(teachers.Source(Path(sys.argv[2]), None, False), taught, 0.5, Path(sys.argv[3]))
with teachers.running(taught) as backends:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    try:
        teachers.make_map(planned, taught, backends)
    except OutputError as error:
        print(error)
"""


def test_a_disk_that_is_full_while_a_map_grows_is_told_of(pair: list[Path], demo_slide: Path, tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    command = [sys.executable, "-c", TOO_LARGE, str(pair[0]), str(demo_slide), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.stderr == ""
    assert re.fullmatch(r"\S+maps/CMU-1-Small-Region-\w+\.map: no space left to write it; .*\n", ended.stdout)
    assert not [*folder.iterdir()]


def test_squares_reach_no_further_than_what_they_are_of(tmp_path: Path) -> None:
    content = np.ones((2, 300, 200), np.uint8)
    soft = open_map(make_file(tmp_path, content))
    assert [each.tolist() for each in find_squares(soft, (200, 300), 192)] == [
        [0, 0, 192, 192], [8, 0, 200, 192], [0, 108, 192, 300], [8, 108, 200, 300],
    ]  # fmt: skip
    assert [each.tolist() for each in find_squares(soft, (100, 150), 192)] == [[0, 0, 100, 150]]


def test_teachers_cannot_disagree_more_than_wholly() -> None:
    """Two planes of one half each, rounded up, add to 256."""
    one, other = np.zeros((2, 3, 1, 1), np.uint8)
    one[1:] = 128
    assert join([one, other])[-1] == 255


def test_the_disk_is_asked_for_what_is_looked_at(
    pair: list[Path], demo_slide: Path, painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught = open_teachers(pair, None, None)
    planned = [
        teachers.plan_map(Source(demo_slide, None, False), taught, 0.5, tmp_path),
        teachers.plan_map(Source(painted / "train_1.bmp", 0.5, True), taught, 0.5, tmp_path),
    ]
    on_slide, on_image = (4 * np.prod(each.size) + 4096 for each in planned)
    with open_slide(demo_slide) as slide:
        share = find_tissue(slide).searched.mean()
    assert 0.2 < share < 0.99
    usage = namedtuple("usage", "total used free")
    for processes, meanwhile in ((1, 2 * on_slide), (2, 2 * (on_slide + on_image))):
        needed = (share * on_slide + on_image) / teachers.COMPRESSED + meanwhile
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, needed=needed: usage(0, 0, needed + 1))
        teachers.refuse_small_disk(planned, taught, tmp_path, processes)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, needed=needed: usage(0, 0, needed - 1))
        with pytest.raises(OutputError, match="maps may take"):
            teachers.refuse_small_disk(planned, taught, tmp_path, processes)
