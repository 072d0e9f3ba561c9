"""A dual-input bundle on images and slides, through both runtimes, against its plain statement."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from plain_dual import segment_plainly
from small_dual import MPP, make_dual

from glassrt.engine import open_slide, score
from glassrt.engine.bundles.bundle import Bundle, open_bundle
from glassrt.engine.errors import UsageError
from glassrt.engine.maps.canvas import Tile
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.slide import lay_levels
from glassrt.engine.tasks.dual import doubt_context
from glassrt.engine.tasks.segment import lay_windows, segment, segment_image

KINDS = [("tile", False), ("tile", True), ("centre", False), ("centre", True)]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}-{'maps' if kind[1] else 'vectors'}")
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    anchor, maps = request.param
    return open_bundle(make_dual(tmp_path_factory.mktemp("dual") / "small.glass", anchor, maps))


def paint(width: int, height: int) -> NDArray[np.uint8]:
    """An image that is alike nowhere. Its halves, quarters and doubles are whole grey levels, which nothing rounds."""
    coarse = np.random.default_rng(width).integers(0, 16, (-(-height // 4), -(-width // 4), 3), np.uint8)
    return np.kron(16 * coarse, np.ones((4, 4, 1), np.uint8))[:height, :width]


def run_in_bands(grid: GridReader, bundle: Bundle, backend: str, batch: int) -> NDArray[np.float32]:
    """The map of a grid at its own resolution, as a slide is scored."""
    found = np.zeros((2, grid.height, grid.width), np.float32)

    def place(tile: Tile) -> None:
        height, width = tile.analysed.shape
        assert tile.analysed.all()
        found[:, tile.top : tile.top + height, tile.left : tile.left + width] = tile.probabilities

    opened = open_backend(bundle, backend, batch, throughput=True)
    segment(grid, lay_windows(grid, bundle), bundle, opened, (grid.width, grid.height), place)
    opened.close()
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One bundle alone, where they do not differ."""
    return open_bundle(make_dual(tmp_path_factory.mktemp("dual") / "small.glass"))


@pytest.mark.parametrize("name", ["ort", "openvino"])
@pytest.mark.parametrize(
    ("size", "scales", "flips"),
    [
        ((400, 300), (1.0,), False),  # several surroundings in each direction
        ((301, 157), (1.0,), True),
        ((70, 50), (1.0,), True),  # smaller than the surroundings
        ((20, 300), (1.0, 2.0), True),  # narrower than a window
        ((9, 7), (1.0,), True),
        ((1, 1), (1.0,), True),
        ((70, 60), (0.75, 1.0, 1.5), True),  # one region, which is scaled exactly
        ((192, 160), (0.5, 1.0, 2.0), True),
    ],
)
def test_it_equals_the_plain_statement(
    bundle: Bundle, name: str, size: tuple[int, int], scales: tuple[float, ...], flips: bool
) -> None:
    tested, pixels = bundle.replace(scales, flips), paint(*size)
    wanted = segment_plainly(GridReader(ArraySlide(pixels, MPP), MPP), tested)
    assert min(size) < 20 or wanted.std() > 0.1
    backend = open_backend(tested, name, 3)
    found = segment_image(pixels, MPP, tested, backend)
    backend.close()
    assert np.abs(found - wanted).max() < 1e-4


def test_surroundings_and_places_are_seen(bundle: Bundle) -> None:
    """Else what is compared above would not depend on them."""
    pixels = paint(400, 300)
    tested = GridReader(ArraySlide(pixels, MPP), MPP)
    plain = segment_plainly(tested, bundle)
    changed = pixels.copy()
    changed[150:] = 255 - changed[150:]
    apart = np.abs(segment_plainly(GridReader(ArraySlide(changed, MPP), MPP), bundle) - plain)[:, :110]
    assert apart.max() > 0.01


@pytest.mark.parametrize(("scales", "flips"), [((1.0,), False), ((0.5, 1.0, 2.0), True)])
def test_a_slide_in_bands_equals_the_slide_as_one_image(bundle: Bundle, scales: tuple[float, ...], flips: bool) -> None:
    tested = bundle.replace(scales, flips)
    grid = GridReader(ArraySlide(paint(300, 600), MPP), MPP)
    assert len(lay_windows(grid, tested).fine.cells) > 6
    assert np.abs(run_in_bands(grid, tested, "ort", 4) - segment_plainly(grid, tested)).max() < 1e-3


def test_a_slide_is_scored_with_what_was_computed_of_it(bundle: Bundle, demo_slide: Path, tmp_path: Path) -> None:
    with open_slide(demo_slide) as slide:
        result = score(slide, bundle, tmp_path / "out", "ort")
    grid = GridReader(open_slide(demo_slide), MPP)
    shared = bundle.manifest.context_anchor == "tile"
    told = json.loads((tmp_path / "out" / "result.json").read_text())["windows"]
    assert told == result.windows
    assert told["run"] + told["skipped"] == len(lay_windows(grid, bundle).windows)
    assert told["contexts"] < told["run"] / 10 if shared else told["contexts"] == told["run"]
    assert {"context", "infer", "read", "cut", "stitch"} < result.seconds.keys()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "map.ome.tif",
        "overlay.png",
        "regions.geojson",
        "result.json",
    ]
    (warning,) = (line for line in result.warnings if "surroundings" in line)
    assert "no level of the slide's pyramid is near the 2 micrometres per pixel" in warning
    assert "16 times as many pixels are read for them, from level 0" in warning


class Pyramid(ArraySlide):
    """Tissue in memory with a level of half its size, and so on."""

    def __init__(self, pixels: NDArray[np.uint8], levels: int) -> None:
        super().__init__(pixels, MPP)
        self.stored = [pixels]
        for _ in range(levels - 1):
            self.stored.append(np.asarray(cv2.pyrDown(self.stored[-1]), np.uint8))
        self.levels = lay_levels([(each.shape[1], each.shape[0]) for each in self.stored])

    def read_level(self, level: int, level_xy: tuple[int, int], size: tuple[int, int]) -> NDArray[np.uint8]:
        x, y = level_xy
        return self.stored[level][y : y + size[1], x : x + size[0]]


@pytest.mark.parametrize(("levels", "times"), [(1, 16), (2, 4), (3, None)])
def test_a_pyramid_without_a_level_for_the_surroundings_is_told(levels: int, times: int | None, two: Bundle) -> None:
    grid = GridReader(Pyramid(paint(800, 600), levels), MPP)
    found = list(doubt_context(grid, lay_windows(grid, two)))
    assert len(found) == (times is not None)
    assert all(f"{times} times as many pixels are read for them, from level {levels - 1}" in line for line in found)


@pytest.mark.parametrize(
    ("size", "scales", "told"),
    [
        ((128, 128), (1.0,), ""),
        ((300, 127), (1.0,), ""),  # 32 pixels of the surroundings, when rounded
        ((300, 125), (1.0,), "0.064 mm wide, more than the slide"),
        ((128, 128), (1.0, 0.5), "0.13 mm wide"),
        ((64, 64), (2.0,), ""),
    ],
)
def test_a_slide_smaller_than_the_surroundings_is_told(
    size: tuple[int, int], scales: tuple[float, ...], told: str, two: Bundle
) -> None:
    grid = GridReader(Pyramid(paint(*size), 3), MPP)
    found = list(doubt_context(grid, lay_windows(grid, two.replace(scales))))
    assert len(found) == bool(told)
    assert all(told in line and line.endswith("is the slide mirrored") for line in found)


def test_one_network_of_two_scores_nothing(two: Bundle, demo_slide: Path, tmp_path: Path) -> None:
    backend = open_backend(two, "ort", role="fine")
    with open_slide(demo_slide) as slide, pytest.raises(UsageError, match="the backend has one alone"):
        score(slide, two, tmp_path / "out", backend)
    backend.close()
    assert not (tmp_path / "out").exists()
