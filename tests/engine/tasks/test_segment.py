from pathlib import Path

import numpy as np
import pytest
from known import run_windows
from numpy.typing import NDArray
from plain_network import PSPNET
from plain_statement import multi_scale_test, slide_windows, softmax

from glassrt.engine.bundles.bundle import Bundle, open_bundle
from glassrt.engine.flow.host import HostRunner
from glassrt.engine.maps.canvas import Canvas, Tile
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.pictures.images import read_image
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.tasks.segment import lay_windows, segment, segment_image
from glassrt.engine.watch import Watch

PAPER_SCALES = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
MPP = 0.62005


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(PSPNET)


@pytest.fixture(scope="module", params=["ort", "openvino"])
def backend(request: pytest.FixtureRequest, bundle: Bundle) -> Backend:
    return open_backend(bundle, request.param)


class OneByOne:
    """The network on single windows, apart from the engine's batches."""

    def __init__(self, bundle: Bundle) -> None:
        self.backend = open_backend(bundle, "ort", batch=1)

    def __call__(self, window: NDArray[np.uint8]) -> NDArray[np.float32]:
        return run_windows(self.backend, np.ascontiguousarray(window[None]))[0].copy()


@pytest.fixture(scope="module")
def network(bundle: Bundle) -> OneByOne:
    return OneByOne(bundle)


@pytest.mark.parametrize("shape", [(522, 775), (320, 320), (200, 900), (90, 70), (1, 1)])
def test_one_scale_equals_the_plain_statement(
    demo_slide: Path, bundle: Bundle, backend: Backend, network: OneByOne, shape: tuple[int, int]
) -> None:
    with open_slide(demo_slide) as slide:
        image = GridReader(slide, MPP).read(300, 700, shape[1], shape[0])
    expected = multi_scale_test(image, network, (1.0,), flips=False)
    assert np.abs(segment_image(image, MPP, bundle, backend) - expected).max() < 1e-4


@pytest.mark.parametrize(("name", "height", "width"), [("train_1", 240, 400), ("train_60", 211, 233)])
def test_all_scales_with_flips_equal_the_plain_statement(
    data: Path, bundle: Bundle, network: OneByOne, name: str, height: int, width: int
) -> None:
    image = read_image(data / "glas" / f"{name}.bmp")[:height, :width]
    paper = bundle.replace(PAPER_SCALES, True)
    expected = multi_scale_test(image, network, PAPER_SCALES, flips=True)
    assert np.abs(segment_image(image, MPP, paper, open_backend(bundle, "ort")) - expected).max() < 1e-4


def test_a_slide_in_bands_equals_the_slide_as_one_image(demo_slide: Path, bundle: Bundle, network: OneByOne) -> None:
    with open_slide(demo_slide) as slide:
        grid = GridReader(slide, MPP)
        assert grid.height > 2 * 1024, "the slide must span several cells and bands"
        probabilities = np.zeros((2, grid.height, grid.width), np.float32)

        def place(tile: Tile) -> None:
            height, width = tile.analysed.shape
            probabilities[:, tile.top : tile.top + height, tile.left : tile.left + width] = tile.probabilities

        segment(grid, lay_windows(grid, bundle), bundle, open_backend(bundle), (grid.width, grid.height), place)
        whole = grid.read(0, 0, grid.width, grid.height)
    expected = softmax(slide_windows(whole, network, 320, 256))
    assert np.abs(probabilities - expected).max() < 1e-3


class Noting:
    """Takes the numbers of windows alone."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers

    def add(self, indices: NDArray[np.int64], outputs: object) -> None:
        self.numbers.extend(indices.tolist())

    def drop(self, indices: NDArray[np.int64]) -> None:
        pytest.fail("nothing is missing")

    def finish(self) -> None:
        pass


def test_no_window_is_computed_twice_and_none_is_left_out(demo_slide: Path, bundle: Bundle) -> None:
    run: list[int] = []
    with open_slide(demo_slide) as slide:
        grid = GridReader(slide, MPP)
        windows = lay_windows(grid, bundle.replace((1.0, 0.75), False))
        backend = open_backend(bundle, "ort", batch=3)
        HostRunner(backend, 2).run(grid, windows, Noting(run), Watch())
    assert sorted(run) == list(range(len(windows.windows)))


@pytest.mark.parametrize("map_size", [(130, 97), (259, 194), (775, 522), (1550, 1044)])
def test_a_map_of_any_size_samples_the_same_logits(
    data: Path, bundle: Bundle, network: OneByOne, map_size: tuple[int, int]
) -> None:
    from plain_statement import resize

    image = read_image(data / "glas" / "train_2.bmp")
    grid = GridReader(ArraySlide(image, MPP), MPP)
    probabilities = np.zeros((2, map_size[1], map_size[0]), np.float32)

    def place(tile: Tile) -> None:
        height, width = tile.analysed.shape
        probabilities[:, tile.top : tile.top + height, tile.left : tile.left + width] = tile.probabilities

    segment(grid, lay_windows(grid, bundle), bundle, open_backend(bundle), map_size, place)
    logits = slide_windows(image, network, 320, 256)
    expected = softmax(resize(resize(logits, 1, map_size[1]), 2, map_size[0]))
    assert np.abs(probabilities - expected).max() < 1e-4


def test_the_canvas_takes_windows_in_any_order_and_leaves_skipped_ones_out(bundle: Bundle) -> None:
    grid = GridReader(ArraySlide(np.zeros((1500, 2000, 3), np.uint8), MPP), MPP)
    tissue = np.zeros((15, 20), bool)
    tissue[2:4, 3:6] = tissue[12, 18] = True
    windows = lay_windows(grid, bundle.replace((1.0, 1.5), True), tissue)
    random = np.random.default_rng(0)
    logits = random.normal(size=(len(windows.windows), 2, 20, 20)).astype(np.float32)
    maps = []
    for order in (np.arange(len(logits)), random.permutation(len(logits))):
        result = np.full((2, 1500, 2000), np.nan, np.float32)

        def place(tile: Tile, result: NDArray[np.float32] = result) -> None:
            height, width = tile.analysed.shape
            block = np.where(tile.analysed, tile.probabilities, np.nan)
            result[:, tile.top : tile.top + height, tile.left : tile.left + width] = block

        canvas = Canvas(windows, 16, (2000, 1500), place)
        for index in order:
            canvas.add(np.array([index]), {"logits": logits[index][None]})
        canvas.finish()
        maps.append(result)
    assert np.array_equal(maps[0], maps[1], equal_nan=True)
    analysed = ~np.isnan(maps[0][0])
    assert analysed[200:400, 300:600].all()
    assert not analysed[700:900, 900:1400].any()
    assert np.allclose(maps[0][:, analysed].sum(0), 1, atol=1e-6)


def test_both_backends_agree(data: Path, bundle: Bundle) -> None:
    image = read_image(data / "glas" / "testA_1.bmp")
    first, second = (segment_image(image, MPP, bundle, open_backend(bundle, name)) for name in ("ort", "openvino"))
    assert np.abs(first - second).max() < 1e-4
