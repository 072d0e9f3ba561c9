"""Slides that are scored while they are scanned: the same files as of the finished file, told of in good time."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from scanned import BUNDLE, FILES, MPP, SIDE, assert_same, at_random, in_rows, in_snake, open_push, push_all

from glassrt.engine import ArraySlide, open_slide, score
from glassrt.engine.errors import UsageError
from glassrt.engine.geometry.boxes import Box, Size
from glassrt.engine.maps.mapfile import NOT_ANALYSED
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.push import PushSlide
from glassrt.engine.slides.slide import Overview
from glassrt.engine.tasks.scan import MapTile, ScanSession


@pytest.mark.parametrize("order", [in_rows, in_snake, at_random])
@pytest.mark.parametrize("side", [SIDE, 401])
def test_files_are_those_of_the_finished_slide_whatever_the_order(
    order: Callable[[Size, int], list[Size]], side: int, pixels: np.ndarray, picture: np.ndarray, whole: Path,
    backend: Backend, tmp_path: Path,
) -> None:  # fmt: skip
    tiles: list[MapTile] = []
    features: list[dict[str, Any]] = []
    slide = open_push(pixels)
    with ScanSession(
        BUNDLE, slide, tmp_path / "out", picture, backend,
        on_map=tiles.append, on_region=lambda region, feature: features.append(json.loads(feature)),
    ) as session:  # fmt: skip
        push_all(session, pixels, order((1700, 1500), side), side)
        session.finish()
    assert_same(tmp_path / "out", whole)
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == sorted([*FILES, "result.json"])
    expected = json.loads((whole / "regions.geojson").read_text())["features"]
    for each in expected:
        del each["id"]
    assert sorted(map(json.dumps, features)) == sorted(map(json.dumps, expected))
    assert_maps_are(tiles, tifffile.imread(whole / "map.ome.tif"))
    assert not slide._blocks


def assert_maps_are(tiles: list[MapTile], finished: np.ndarray) -> None:
    painted = np.zeros_like(finished)
    painted[0] = NOT_ANALYSED
    for tile in tiles:
        height, width = tile.classes.shape
        place = np.s_[tile.top : tile.top + height, tile.left : tile.left + width]
        assert (painted[0][place] == NOT_ANALYSED).all()
        painted[0][place] = tile.classes
        painted[1:, place[0], place[1]] = tile.probabilities
        assert tile.lag_s >= 0
    assert np.array_equal(painted, finished)


def test_tiles_may_be_pushed_to_the_slide_itself(
    pixels: np.ndarray, picture: np.ndarray, whole: Path, backend: Backend, tmp_path: Path
) -> None:
    slide = open_push(pixels)
    with ScanSession(BUNDLE, slide, tmp_path / "out", picture, backend) as session:
        for x, y in in_snake((1700, 1500), SIDE):
            slide.push(0, x, y, np.ascontiguousarray(pixels[y : y + SIDE, x : x + SIDE]))
        assert session.progress.tiles == len(in_rows((1700, 1500), SIDE))
        session.finish()
    assert_same(tmp_path / "out", whole)
    with pytest.raises(UsageError, match="no session any more: it is finished"):
        slide.push(0, 0, 0, pixels)


def test_views_at_several_scales_and_mirrored_ones_agree_too(
    pixels: np.ndarray, picture: np.ndarray, tmp_path: Path
) -> None:
    bundle = BUNDLE.replace((0.75, 1.25), True)
    small, seen = pixels[:900, :1100], picture[:112, :137]
    runtime = open_backend(bundle, "ort", precision="fp32", throughput=True)
    score(ArraySlide(small, MPP), bundle, tmp_path / "whole", runtime, overview=seen)
    with ScanSession(bundle, open_push(small), tmp_path / "out", seen, runtime) as session:
        push_all(session, small, at_random((1100, 900), SIDE))
        session.finish()
    assert_same(tmp_path / "out", tmp_path / "whole")


def test_tiles_as_they_stand_in_a_file_give_what_the_file_gives(
    demo_slide: Path, backend: Backend, tmp_path: Path
) -> None:
    with tifffile.TiffFile(demo_slide) as file:
        page: Any = file.pages.first
        content = [(file.filehandle.seek(at), file.filehandle.read(count))[1]
                   for at, count in zip(page.dataoffsets, page.databytecounts, strict=True)]  # fmt: skip
        tables, columns = page.jpegtables, -(-page.imagewidth // page.tilewidth)
    with open_slide(demo_slide) as slide:
        seen = np.ascontiguousarray(slide.read_level(0, (0, 0), slide.levels[0].size)[::4, ::4])
        score(slide, BUNDLE, tmp_path / "file", backend, overview=seen)
        pushed = PushSlide(
            [slide.levels[0].size], slide.mpp, SIDE, name=slide.name, jpeg_tables=tables, photometric="rgb"
        )
    with ScanSession(BUNDLE, pushed, tmp_path / "out", seen, backend) as session:
        for number in np.random.default_rng(5).permutation(len(content)).tolist():
            row, column = divmod(number, columns)
            session.push(0, column * SIDE, row * SIDE, content[number])
        session.finish()
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "file" / name).read_bytes(), name


def test_the_level_is_used_that_a_file_is_read_from(
    pixels: np.ndarray, picture: np.ndarray, whole: Path, backend: Backend, tmp_path: Path
) -> None:
    slide = PushSlide([(3400, 3000), (1700, 1500)], MPP / 2, SIDE, name="array")
    with ScanSession(BUNDLE, slide, tmp_path / "out", picture, backend) as session:
        session.push(0, 0, 0, np.zeros((SIDE, SIDE, 3), np.uint8))
        for x, y in in_rows((1700, 1500), SIDE):
            session.push(1, x, y, np.ascontiguousarray(pixels[y : y + SIDE, x : x + SIDE]))
        session.finish()
    assert (tmp_path / "out" / "map.ome.tif").read_bytes() == (whole / "map.ome.tif").read_bytes()


def test_an_overview_says_which_part_of_the_slide_it_shows(
    pixels: np.ndarray, picture: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    seen = Overview(picture[:, :106], Box(0, 0, 848, 1500))
    score(ArraySlide(pixels, MPP), BUNDLE, tmp_path / "whole", backend, overview=seen)
    with ScanSession(BUNDLE, open_push(pixels), tmp_path / "out", seen, backend) as session:
        push_all(session, pixels, in_snake((1700, 1500), SIDE))
        result = session.finish()
    assert_same(tmp_path / "out", tmp_path / "whole")
    assert result.windows["skipped"] > 10


def test_without_an_overview_tissue_is_that_of_the_picture_that_the_tiles_make(
    pixels: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    session = ScanSession(BUNDLE, open_push(pixels), tmp_path / "out", None, backend)
    push_all(session, pixels, at_random((1700, 1500), SIDE))
    result = session.finish()
    assert session._glimpse is not None
    seen = session._glimpse.overview()
    assert (
        np.abs(seen.pixels.astype(int) - shrink(pixels, seen.pixels.shape[:2])).mean() < 5
    )  # each tile is rounded to whole pixels
    whole = score(ArraySlide(pixels, MPP), BUNDLE, tmp_path / "whole", backend, overview=seen)
    assert result.tissue_mm2 == whole.tissue_mm2
    assert 0.8 * whole.windows["run"] < result.windows["run"] <= whole.windows["run"]
    classes, expected = (tifffile.imread(tmp_path / name / "map.ome.tif")[0] for name in ("out", "whole"))
    analysed = classes != NOT_ANALYSED
    assert (expected[analysed] != NOT_ANALYSED).all()
    assert (classes == expected)[analysed].mean() > 0.99
    assert (expected[~analysed] != 1).all()  # windows without any stain, beside tissue, are not run


def test_all_of_a_slide_is_scored_without_an_overview(pixels: np.ndarray, backend: Backend, tmp_path: Path) -> None:
    small = pixels[:700, :800]
    score(ArraySlide(small, MPP), BUNDLE, tmp_path / "whole", backend, tissue="all")
    with ScanSession(BUNDLE, open_push(small), tmp_path / "out", None, backend, tissue="all") as session:
        push_all(session, small, in_snake((800, 700), SIDE))
        session.finish()
    for name in FILES[:2]:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == sorted([*FILES, "result.json"])


def shrink(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA).astype(int)


def test_pixels_that_never_came_are_not_analysed_and_told_of(
    pixels: np.ndarray, picture: np.ndarray, whole: Path, backend: Backend, tmp_path: Path
) -> None:
    lost = 480, 480
    with ScanSession(BUNDLE, open_push(pixels), tmp_path / "out", picture, backend) as session:
        push_all(session, pixels, [place for place in in_rows((1700, 1500), SIDE) if place != lost])
        result = session.finish()
    (warning,) = (line for line in result.warnings if "never came" in line)
    count = int(warning.split()[0])
    before = json.loads((whole / "result.json").read_text())["windows"]
    assert 0 < count < before["run"]
    assert result.windows == {"run": before["run"] - count, "skipped": before["skipped"] + count}
    classes, expected = (tifffile.imread(folder / "map.ome.tif")[0] for folder in (tmp_path / "out", whole))
    analysed = classes != NOT_ANALYSED
    ratio = pixels.shape[1] / classes.shape[1]
    middle = classes[round(600 / ratio), round(600 / ratio)]
    assert middle == NOT_ANALYSED
    assert (classes == expected)[analysed].mean() > 0.97  # what a missing window shared is another's alone
