"""Surveys of slides large and small, and what is no bright-field picture."""

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from glassrt.engine import open_bundle, score
from glassrt.engine.errors import SlideError
from glassrt.engine.geometry.boxes import Box, Size
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.slide import Overview, Pixels, lay_levels
from glassrt.engine.slides.tissue import survey as surveys
from glassrt.engine.slides.tissue.glass import Glass
from glassrt.engine.slides.tissue.masks import widen
from glassrt.engine.slides.tissue.survey import THUMBNAIL_SIDE, find_tissue, look_over
from glassrt.engine.tasks.segment import lay_windows


class Wide(ArraySlide):
    """A slide of glass of any size, with a strip of tissue's colours; nothing of it is kept."""

    def __init__(self, size: Size, mpp: float, strip: tuple[int, int]) -> None:
        super().__init__(np.full((1, 1, 3), 240, np.uint8), mpp)
        self.levels = lay_levels([size])
        self._strip, self.pixels_read = strip, 0

    def read_level(self, level: int, level_xy: tuple[int, int], size: Size) -> Pixels:
        (x, y), (width, height) = level_xy, size
        self.pixels_read += width * height
        pixels = np.full((height, width, 3), 240, np.uint8)
        first, end = max(y, self._strip[0]), min(y + height, self._strip[1])
        left = max(0, self.levels[0].size[0] // 2 - x)
        if first < end and left < width:
            grain = (np.arange(x + left, x + width)[None] // 5 + np.arange(first, end)[:, None] // 5) % 3
            pixels[first - y : end - y, left:] = (200, 120, 170) - grain[..., None] * (20, 25, 10)
        return pixels


def test_a_strip_of_30_um_on_a_slide_of_50_mm_is_found_in_bounded_memory() -> None:
    slide = Wide((25_000, 5_000), 2.0, (2_250, 2_265))
    tracemalloc.start()
    survey = look_over(slide, 2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert survey.tissue.shape == (1250, 6250)
    assert peak < 150_000_000
    assert slide.pixels_read < 1.25 * 25_000 * 5_000
    rows, columns = np.nonzero(survey.tissue)
    assert rows.min() >= 558
    assert rows.max() <= 570
    assert np.unique(columns).size > 3100  # all of its 25 mm
    bundle = open_bundle()
    grid = GridReader(slide, bundle.manifest.mpp)
    kept = lay_windows(grid, bundle, widen(survey.tissue, survey.mpp))
    truth = np.zeros((5_000, 2), np.bool_)
    truth[2_250:2_265, 1] = True
    assert {tuple(each) for each in lay_windows(grid, bundle, truth).windows.tolist()} <= {
        tuple(each) for each in kept.windows.tolist()
    }


@pytest.mark.parametrize("tissue_rows", [slice(0, 300), slice(2000, 2300)])
def test_a_large_slide_read_in_bands_gives_what_the_whole_would(
    demo_slide: Path, tissue_rows: slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tissue and a pen over the seams of bands, beside the same picture read at once, against one glass."""
    monkeypatch.setattr(surveys, "find_glass", lambda samples: Glass((0.05, 0.05, 0.05)))
    with open_slide(demo_slide) as slide:
        small = np.concatenate([*GridReader(slide, 8.0).read_strips(1)])
    picture = np.full((2400, 1500, 3), 241, np.uint8)
    for top in range(tissue_rows.start, tissue_rows.stop - 185, 90):
        picture[top : top + 185, 300:438] = small[:185, :138]
    cv2.line(picture, (900, 10), (1100, 2390), (30, 60, 190), 50)
    picture = np.asarray(picture, np.uint8)
    banded = look_over(ArraySlide(picture, 8.0), 2)
    assert max(banded.thumbnail.shape) == pytest.approx(THUMBNAIL_SIDE, rel=0.5)
    whole = GridReader(ArraySlide(picture, 8.0), 8.0)
    assert np.array_equal(np.concatenate([*whole.read_strips(2)]), picture)
    part = look_over(ArraySlide(picture[:1000], 8.0), 2).tissue
    assert np.array_equal(part[:800], banded.tissue[:800]) or tissue_rows.start > 1000
    assert not banded.tissue[:, 850:1150].any()
    assert banded.tissue[:, 300:438].any()


def fluorescence(background: float, color: tuple[int, int, int]) -> NDArray[np.uint8]:
    random = np.random.default_rng(0)
    picture = np.zeros((1200, 1200, 3), np.float32)
    for x, y in random.integers(0, 1200, (600, 2)).tolist():
        cv2.circle(picture, (x, y), 10, tuple(channel * random.uniform(0.4, 1) for channel in color), -1)
    return (picture + random.normal(background, 2, picture.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("background", [0, 10, 55])
@pytest.mark.parametrize("color", [(20, 60, 255), (30, 255, 40), (255, 60, 30), (255, 255, 255)])
def test_fluorescence_is_refused(background: float, color: tuple[int, int, int]) -> None:
    with pytest.raises(SlideError, match=r"array: (its ground is dark|.* not a bright-field picture.*--tissue all)"):
        find_tissue(ArraySlide(fluorescence(background, color), 0.5))


@pytest.mark.parametrize(("level", "says"), [(0, "all of it is black"), (60, "not a bright-field picture")])
def test_a_blank_dark_scan_is_refused(level: int, says: str) -> None:
    with pytest.raises(SlideError, match=says):
        find_tissue(ArraySlide(np.full((900, 700, 3), level, np.uint8), 0.5))


def test_an_inverted_slide_is_refused(demo_slide: Path) -> None:
    with pytest.raises(SlideError, match="not a bright-field picture"):
        find_tissue(ArraySlide(255 - tifffile.imread(demo_slide), 0.5))


@pytest.mark.parametrize("level", [243, 255])
def test_blank_glass_is_seen_and_holds_nothing(level: int) -> None:
    survey = find_tissue(ArraySlide(np.full((900, 700, 3), level, np.uint8), 0.5))
    assert not survey.tissue.any()


def test_real_tissue_is_seen_though_all_around_it_is_black(data: Path) -> None:
    paths = [path for path in sorted((data / "glas").glob("testA_*.bmp")) if "anno" not in path.name]
    paths += sorted((data / "ucsb").glob("*.tif"))[::3] + sorted((data / "crchisto").glob("*/*.bmp"))[::3]
    assert len(paths) > 100
    for path in paths:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        assert pixels is not None
        black = np.pad(pixels, ((300, 300), (300, 300), (0, 0)))
        assert not look_over(ArraySlide(black, 0.55), 1).doubt, path


def overview_of(slide: ArraySlide, frame: Box, side: int) -> Overview:
    """What a scanner might have seen of a part of a slide: the part, smaller."""
    left, top = frame.left, frame.top
    part = slide.read_level(0, (left, top), frame.size)
    shape = (side, max(1, side * frame.size[1] // frame.size[0]))
    return Overview(np.asarray(cv2.resize(part, shape, interpolation=cv2.INTER_AREA)), frame)


@pytest.mark.parametrize("frame", [Box(0, 0, 2000, 1500), Box(400, 300, 1800, 1500)])
def test_tissue_is_found_in_the_overview_where_there_is_one(frame: Box, demo_slide: Path) -> None:
    """And no pixel of the levels is read for it."""
    with open_slide(demo_slide) as file:
        pixels = file.read_level(0, (0, 0), (2000, 1500))
        mpp = file.mpp

    class Unread(ArraySlide):
        def read_level(self, level: int, level_xy: tuple[int, int], size: Size) -> Pixels:
            raise AssertionError("a level was read")

    slide = ArraySlide(pixels, mpp)
    seen = look_over(Unread(pixels, mpp, overview=overview_of(slide, frame, 700)), 2)
    height, width = seen.tissue.shape
    assert abs(width / height - 2000 / 1500) < 0.02
    assert abs(seen.thumbnail.shape[1] / seen.thumbnail.shape[0] - 2000 / 1500) < 0.02
    inside = np.zeros(seen.tissue.shape, bool)
    across, down = width / 2000, height / 1500
    inside[round(frame.top * down) : round(frame.bottom * down), round(frame.left * across) :] = True
    inside[:, round(frame.right * across) :] = False
    assert not seen.tissue[~inside].any()
    read = look_over(slide, 2).tissue
    wanted = np.asarray(cv2.resize(read.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)) > 0
    assert (seen.tissue == wanted)[inside].mean() > 0.9
    assert 0.05 < seen.tissue[inside].mean() < 0.95


SMALL_PART = Box(4000, 3000, 4600, 3600)  # of 30,000 x 20,000 pixels


@pytest.fixture
def grainy() -> Pixels:
    """600 x 600 pixels of glass with tissue's colours in the middle."""
    return Wide((600, 600), 4.0, (200, 400)).read_level(0, (0, 0), (600, 600))


def test_an_overview_that_shows_more_than_was_scanned_is_cut_to_the_slide(grainy: Pixels) -> None:
    """As scanners take one of the whole glass: its first pixel lies left of and above level 0."""
    whole = look_over(ArraySlide(grainy, 4.0, overview=Overview(grainy, Box(0, 0, 600, 600))), 1)
    part = Box(100, 200, 500, 450)
    scanned = np.ascontiguousarray(grainy[part.top : part.bottom, part.left : part.right])
    beyond = Overview(grainy, Box(-part.left, -part.top, 600 - part.left, 600 - part.top))
    seen = look_over(ArraySlide(scanned, 4.0, overview=beyond), 1)
    assert whole.tissue.shape == (300, 300)
    assert np.array_equal(seen.tissue, whole.tissue[100:225, 50:250])
    assert np.array_equal(seen.thumbnail, whole.thumbnail[200:450, 100:500])


def test_a_thumbnail_stays_small_where_the_overview_shows_a_small_part(grainy: Pixels) -> None:
    slide = ArraySlide(np.full((10, 10, 3), 240, np.uint8), 0.5, overview=Overview(grainy, SMALL_PART))
    slide.levels = lay_levels([(30_000, 20_000)])
    seen = look_over(slide, 1)
    assert max(seen.thumbnail.shape) <= THUMBNAIL_SIDE * 1.1
    ys, xs = (places / seen.tissue.shape[axis] for axis, places in enumerate(np.nonzero(seen.tissue)))
    assert 3000 / 20_000 < ys.min() < ys.max() < 3600 / 20_000
    assert 4000 / 30_000 < xs.min() < xs.max() < 4600 / 30_000


def test_an_overview_of_fluorescence_is_refused_though_it_shows_a_part_only() -> None:
    picture = fluorescence(0, (20, 60, 255))
    seen = Overview(picture, Box(0, 0, 1200, 1200))
    with pytest.raises(SlideError, match="its ground is dark"):
        find_tissue(ArraySlide(np.full((2400, 2400, 3), 240, np.uint8), 0.5, overview=seen))


@pytest.mark.parametrize("frame", [Box(600, 0, 1200, 600), Box(0, -600, 600, 0), Box(300, 300, 300, 600)])
def test_an_overview_of_no_part_of_the_slide_is_refused(frame: Box, grainy: Pixels) -> None:
    with pytest.raises(SlideError, match="array: its overview shows no part of it"):
        look_over(ArraySlide(grainy, 4.0, overview=Overview(grainy, frame)), 1)


def test_a_slide_with_an_overview_is_scored_by_its_tissue(demo_slide: Path, tmp_path: Path) -> None:
    bundle = open_bundle()
    with open_slide(demo_slide) as file:
        pixels = file.read_level(0, (0, 0), (2000, 1500))
        mpp = file.mpp
    half = overview_of(ArraySlide(pixels, mpp), Box(0, 0, 1000, 1500), 500)
    result = score(ArraySlide(pixels, mpp, overview=half), bundle, tmp_path / "half", "ort", precision="fp32")
    whole = score(ArraySlide(pixels, mpp), bundle, tmp_path / "whole", "ort", precision="fp32")
    assert 0 < result.tissue_mm2 < 0.8 * whole.tissue_mm2
    assert result.windows["run"] < whole.windows["run"]
