import os
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from plain_statement import resize

from glassrt.engine.errors import GlassError, SlideError
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.pictures.images import read_image
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.resampling import MAX_READ_SIDE, scale_exactly
from glassrt.engine.slides.slide import lay_levels


def test_a_slide_at_its_own_resolution_is_read_as_openslide_reads_it(demo_slide: Path) -> None:
    with open_slide(demo_slide) as slide, openslide.OpenSlide(demo_slide) as plain:
        grid = GridReader(slide, 0.499)
        assert (grid.width, grid.height) == plain.dimensions
        expected = np.asarray(plain.read_region((0, 0), 0, plain.dimensions).convert("RGB"))
        assert np.array_equal(grid.read(0, 0, *plain.dimensions), expected)
        assert np.array_equal(grid.read(2100, 2800, 120, 167), expected[2800:, 2100:])


@pytest.mark.parametrize("mpp", [0.62005, 1.3, 2.1, 8.0])
def test_a_pixel_does_not_depend_on_the_region_it_was_read_with(demo_slide: Path, mpp: float) -> None:
    with open_slide(demo_slide) as slide:
        grid = GridReader(slide, mpp)
        whole = grid.read(0, 0, grid.width, grid.height).astype(int)
        for x, y, width, height in [(0, 0, 50, 60), (37, 41, 77, 33), (grid.width - 51, grid.height - 67, 51, 67)]:
            part = grid.read(x, y, width, height)
            assert np.array_equal(whole[y : y + height, x : x + width], part)


def test_finer_slides_are_averaged_not_thinned_out() -> None:
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 200
    grid = GridReader(ArraySlide(stripes, 0.25), 1.0)
    assert (grid.width, grid.height) == (100, 100)
    assert np.array_equal(grid.read(10, 10, 50, 50), np.full((50, 50, 3), 100))


def test_reading_matches_a_plain_bilinear_statement() -> None:
    random = np.random.default_rng(0)
    pixels = cv2.GaussianBlur(random.integers(0, 256, (300, 260, 3), dtype=np.uint8), (0, 0), 3)
    grid = GridReader(ArraySlide(pixels.astype(np.uint8), 0.5), 0.62)
    expected = cv2.resize(pixels.astype(np.float64), (grid.width, grid.height), interpolation=cv2.INTER_LINEAR)
    assert np.abs(grid.read(0, 0, grid.width, grid.height) - expected).max() < 0.6


@pytest.mark.parametrize("scale", [0.75, 1.25, 1.5, 1.75, 2, 2.5, 3])
@pytest.mark.parametrize(
    ("name", "height", "width"), [("train_1", 522, 775), ("testA_47", 522, 775), ("train_3", 300, 332)]
)
def test_images_are_scaled_as_a_plain_statement_does_to_the_bit(
    data: Path, scale: float, name: str, height: int, width: int
) -> None:
    image = read_image(data / "glas" / f"{name}.bmp")[:height, :width]
    size = int(scale * width + 0.5), int(scale * height + 0.5)
    expected = np.rint(resize(resize(image, 1, size[0]), 0, size[1])).astype(np.uint8)
    assert np.array_equal(scale_exactly(image, size), expected)


def test_the_nearest_finer_level_is_read(data: Path) -> None:
    with open_slide(data / "slides" / "small_HE_levels.tiff", mpp=0.25) as slide:
        assert [GridReader(slide, mpp).level for mpp in (0.25, 0.4, 0.5, 0.9, 1.1, 8.0)] == [0, 0, 1, 1, 2, 3]


def test_thumbnails_of_many_blocks_have_no_seams() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 9000).astype(np.uint8)[:, None, None], (9000, 600, 3))
    grid = GridReader(ArraySlide(np.ascontiguousarray(ramp), 0.5), 4.0)
    column = grid.read(0, 0, grid.width, grid.height)[:, 10, 0].astype(int)
    assert np.diff(column).min() >= 0
    assert np.diff(column).max() <= 1


@pytest.mark.parametrize(
    ("name", "mpp", "says"),
    [
        ("slides/none.svs", None, "does not exist"),
        ("slides", None, "not a file"),
        (f"slides/{'n' * 300}.svs", None, "cannot be reached"),
        ("slides/broken.svs/inside.svs", None, "cannot be reached"),
        ("slides/broken.svs", None, "not a slide"),
        ("slides/CMU-1-Small-Region.jpeg.tiff", None, "0.00499 micrometres per pixel, which no scan has"),
        ("slides/CMU-1-Small-Region.jpeg.tiff", 0.0001, "not between"),
        ("slides/tissue/no-tissue.png", None, "pass it with --mpp"),
        ("glas/Grade.csv", 0.5, "not a slide"),
    ],
)
def test_what_cannot_be_read_is_named_with_what_to_do(data: Path, name: str, mpp: float | None, says: str) -> None:
    with pytest.raises(GlassError, match=says) as caught:
        open_slide(data / name, mpp)
    assert Path(name).name in str(caught.value)


def test_a_wrong_resolution_can_be_corrected(data: Path) -> None:
    with open_slide(data / "slides" / "CMU-1-Small-Region.jpeg.tiff", mpp=0.499) as slide:
        assert slide.mpp == 0.499


@pytest.mark.parametrize(
    "pixels", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3), np.float32), np.zeros((0, 5, 3), np.uint8)]
)
def test_arrays_of_another_form_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(GlassError, match="expected uint8"):
        ArraySlide(pixels, 0.5)


def test_a_thumbnail_of_a_slide_without_a_pyramid_takes_small_reads() -> None:
    """No read may be larger than what it is meant to hold, however far it shrinks; and none asks for a pixel twice
    as far away as it needs.
    """
    asked = []

    class Bare:
        name, source, mpp, levels = "bare", "test", 0.25, lay_levels([(100_000, 30_000)])

        def read_level(self, level: int, level_xy: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
            asked.append(size)
            return np.zeros((size[1], size[0], 3), np.uint8)

        def close(self) -> None: ...

    grid = GridReader(Bare(), 0.25 * 100_000 / 1024)
    assert grid.read(500, 100, 90, 60).shape == (60, 90, 3)
    assert max(max(size) for size in asked) <= MAX_READ_SIDE
    assert sum(width * height for width, height in asked) < 4 * (90 * 60) * 98**2


def test_a_damaged_header_is_read_or_told(data: Path, tmp_path: Path) -> None:
    """Bytes of a TIFF file's directories changed at random: no error but GlassRT's own."""
    source, random = data / "slides" / "small_HE_levels.tiff", np.random.default_rng(0)
    whole, damaged, told = source.read_bytes(), tmp_path / "damaged.tiff", 0
    with tifffile.TiffFile(source) as file:
        directories = [page.offset for page in file.pages]
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(random.integers(1, 4)):
            content[random.choice(directories) + random.integers(0, 220)] = random.integers(0, 256)
        damaged.write_bytes(content)
        try:
            with open_slide(damaged, mpp=0.5) as slide:
                for level, ((width, height), *_) in enumerate(slide.levels):
                    assert slide.read_level(level, (0, 0), (min(width, 64), min(height, 64))).dtype == np.uint8
        except SlideError:
            told += 1
    assert 100 < told < 300


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.svs")
    with pytest.raises(SlideError, match=r"pipe\.svs: not a file"):
        open_slide(tmp_path / "pipe.svs")
