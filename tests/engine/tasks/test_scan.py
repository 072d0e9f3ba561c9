"""Slides that are scored while they are scanned: the same files as of the finished file, told of in good time."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from glassrt.engine import ArraySlide, open_bundle, open_slide, score
from glassrt.engine.errors import FolderTaken, SlideError, UsageError
from glassrt.engine.geometry.boxes import Box, Size
from glassrt.engine.maps.mapfile import NOT_ANALYSED
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.push import PushSlide, Tile
from glassrt.engine.slides.slide import Overview
from glassrt.engine.tasks.scan import Busy, MapTile, ScanSession

BUNDLE = open_bundle()
FILES = ("map.ome.tif", "regions.geojson", "overlay.png")
SIDE = 240  # of the demo slide's tiles
MPP = 0.499


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    opened = open_backend(BUNDLE, "auto", precision="auto", throughput=True)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def pixels(demo_slide: Path) -> np.ndarray:
    """A part of the demo slide with tissue and glass, whose sides are no multiples of tiles."""
    return tifffile.imread(demo_slide)[400:1900, :1700]


@pytest.fixture(scope="module")
def picture(pixels: np.ndarray) -> np.ndarray:
    """What a scanner saw of the whole before: small, and a little off in colour."""
    small = pixels[: 1500 // 8 * 8, : 1700 // 8 * 8].reshape(187, 8, 212, 8, 3).mean(axis=(1, 3))
    return (small * 0.98 + 2).astype(np.uint8)


def in_rows(size: Size, side: int) -> list[Size]:
    return [(x, y) for y in range(0, size[1], side) for x in range(0, size[0], side)]


def in_snake(size: Size, side: int) -> list[Size]:
    rows = itertools.groupby(in_rows(size, side), key=lambda place: place[1])
    return [place for number, (_, row) in enumerate(rows) for place in [*row][:: -1 if number % 2 else 1]]


def at_random(size: Size, side: int) -> list[Size]:
    places = in_rows(size, side)
    np.random.default_rng(3).shuffle(places)
    return [(int(x), int(y)) for x, y in places]


def push_all(session: ScanSession, pixels: np.ndarray, places: list[Size], side: int = SIDE) -> None:
    for x, y in places:
        session.push(Tile(0, x, y, np.ascontiguousarray(pixels[y : y + side, x : x + side])))


def open_push(pixels: np.ndarray, side: int = SIDE, mpp: float = MPP) -> PushSlide:
    return PushSlide([(pixels.shape[1], pixels.shape[0])], mpp, side, name="array")


def assert_same(one: Path, other: Path) -> None:
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    told = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    for each in told:
        del each["seconds"], each["slide"]["source"]
    assert told[0] == told[1]


@pytest.fixture(scope="module")
def whole(pixels: np.ndarray, picture: np.ndarray, backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan") / "whole"
    score(ArraySlide(pixels, MPP), BUNDLE, folder, backend, overview=picture)
    return folder


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
            session.push(Tile(0, column * SIDE, row * SIDE, content[number]))
        session.finish()
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "file" / name).read_bytes(), name


def test_the_level_is_used_that_a_file_is_read_from(
    pixels: np.ndarray, picture: np.ndarray, whole: Path, backend: Backend, tmp_path: Path
) -> None:
    slide = PushSlide([(3400, 3000), (1700, 1500)], MPP / 2, SIDE, name="array")
    with ScanSession(BUNDLE, slide, tmp_path / "out", picture, backend) as session:
        session.push(Tile(0, 0, 0, np.zeros((SIDE, SIDE, 3), np.uint8)))
        for x, y in in_rows((1700, 1500), SIDE):
            session.push(Tile(1, x, y, np.ascontiguousarray(pixels[y : y + SIDE, x : x + SIDE])))
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


def test_a_scan_that_is_faster_than_the_machine_waits_or_is_told_and_loses_nothing(
    pixels: np.ndarray, picture: np.ndarray, whole: Path, backend: Backend, tmp_path: Path
) -> None:
    most = 12
    waiting: list[int] = []
    with ScanSession(
        BUNDLE, open_push(pixels), tmp_path / "out", picture, backend, most_backlog=most,
        on_progress=lambda progress: waiting.append(progress.backlog),
    ) as session:  # fmt: skip
        refused = 0
        for x, y in in_rows((1700, 1500), SIDE):
            tile = Tile(0, x, y, np.ascontiguousarray(pixels[y : y + SIDE, x : x + SIDE]))
            try:
                session.push(tile, timeout_s=0)
            except Busy as error:
                assert f"over {most} windows wait" in str(error)  # noqa: PT017
                refused += 1
                session.push(tile)
        session.finish()
    assert refused
    assert max(waiting) < most + 40  # of the cells that one tile completes
    assert_same(tmp_path / "out", whole)


def test_several_threads_push_at_once(
    pixels: np.ndarray, picture: np.ndarray, whole: Path, backend: Backend, tmp_path: Path
) -> None:
    with ScanSession(BUNDLE, open_push(pixels), tmp_path / "out", picture, backend) as session:
        places = at_random((1700, 1500), SIDE)
        threads = [threading.Thread(target=push_all, args=(session, pixels, places[n::4])) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        session.finish()
    assert_same(tmp_path / "out", whole)


def test_a_session_that_is_left_leaves_nothing(
    pixels: np.ndarray, picture: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    slide = open_push(pixels)
    with ScanSession(BUNDLE, slide, tmp_path / "out", picture, backend) as session:
        push_all(session, pixels, in_rows((1700, 1500), SIDE)[:30])
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())
    assert not slide._blocks
    assert not [each for each in threading.enumerate() if each in session._runner._threads]
    session.cancel()
    for call in (session.finish, lambda: session.push(Tile(0, 0, 0, pixels))):
        with pytest.raises(UsageError, match="array: no session any more: it was cancelled"):
            call()


def test_who_waits_to_push_is_told_that_the_session_was_cancelled(
    pixels: np.ndarray, picture: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    held = threading.Event()
    session = ScanSession(
        BUNDLE, open_push(pixels), tmp_path / "out", picture, backend, most_backlog=0,
        on_progress=lambda progress: held.wait(20) and None,
    )  # fmt: skip
    told: list[str] = []

    def push() -> None:
        try:
            push_all(session, pixels, in_rows((1700, 1500), SIDE))
        except Exception as error:
            told.append(str(error))

    thread = threading.Thread(target=push)
    thread.start()
    while not session.progress.backlog:
        time.sleep(0.01)
    threading.Timer(0.2, held.set).start()
    session.cancel()
    thread.join(20)
    assert told == ["array: the session was cancelled"] or "no session any more" in told[0]
    assert not list(tmp_path.iterdir())


def test_what_a_listener_raises_ends_the_session(
    pixels: np.ndarray, picture: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    def fail(tile: MapTile) -> None:
        raise ValueError("the screen is gone")

    session = ScanSession(BUNDLE, open_push(pixels), tmp_path / "out", picture, backend, on_map=fail)
    with suppress(ValueError):
        push_all(session, pixels, in_rows((1700, 1500), SIDE))
    with pytest.raises(ValueError, match="the screen is gone"):
        session.finish()
    session.cancel()
    assert not list(tmp_path.iterdir())


def test_a_damaged_tile_is_told_and_the_session_goes_on(
    pixels: np.ndarray, picture: np.ndarray, whole: Path, backend: Backend, tmp_path: Path
) -> None:
    with ScanSession(BUNDLE, open_push(pixels), tmp_path / "out", picture, backend) as session:
        with pytest.raises(SlideError, match="is no JPEG"):
            session.push(Tile(0, 480, 480, b"noise"))
        push_all(session, pixels, in_rows((1700, 1500), SIDE))
        session.finish()
    assert_same(tmp_path / "out", whole)


def test_what_cannot_be_scanned_is_refused_before_the_first_tile(
    pixels: np.ndarray, picture: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    with pytest.raises(SlideError, match="is too coarse"):
        ScanSession(BUNDLE, PushSlide([(200, 200)], 5.0, 64), tmp_path / "out", picture, backend)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(FolderTaken, match="was not written by GlassRT"):
        ScanSession(BUNDLE, open_push(pixels), tmp_path / "out", picture, backend)
    black = Overview(np.zeros((10, 10, 3), np.uint8), Box(0, 0, 1700, 1500))
    with pytest.raises(SlideError, match="--tissue all"):
        ScanSession(BUNDLE, open_push(pixels), tmp_path / "new", black, backend)
    assert not (tmp_path / "new").exists()
