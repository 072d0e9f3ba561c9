from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from glassrt.engine.grid import GridReader
from glassrt.engine.images import read_image
from glassrt.engine.slide import open_slide
from glassrt.engine.tissue import tissue_mask

TILE_MPP = 4.0


def tile(data: Path, name: str) -> NDArray[np.uint8]:
    return read_image(data / "slides" / "tissue" / f"{name}.png")


@pytest.mark.parametrize(
    "name", ["almost-white-1", "no-tissue", "no-tissue2", "no-tissue-line", "no-tissue-green-pen", "no-tissue-red-pen"]
)
def test_glass_dust_and_pen_are_not_tissue(data: Path, name: str) -> None:
    assert tissue_mask(tile(data, name), TILE_MPP).mean() < 0.01


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        # (rows, columns) that the eye sees as tissue, and as glass or pen
        ("tissue-level2-1784-6289-5880-10386", (slice(0, 300), slice(300, 500)), (slice(350, 512), slice(0, 60))),
        ("tissue-level2-3000-7666-7096-11763", (slice(40, 250), slice(180, 380)), (slice(350, 512), slice(0, 130))),
        ("medium-nuclei-score-green-pen-level1", (slice(340, 480), slice(330, 500)), (slice(0, 120), slice(420, 512))),
    ],
)
def test_tissue_is_found_where_the_eye_sees_it(
    data: Path, name: str, inside: tuple[slice, slice], outside: tuple[slice, slice]
) -> None:
    mask = tissue_mask(tile(data, name), TILE_MPP)
    assert mask[inside].mean() > 0.8
    assert mask[outside].mean() < 0.1


@pytest.mark.parametrize("gain", [(1.0, 1.0, 1.0), (0.92, 0.92, 0.88), (0.85, 0.87, 0.9)])
def test_gland_images_are_nearly_all_tissue_under_any_light(data: Path, gain: tuple[float, float, float]) -> None:
    shares = []
    for path in sorted((data / "glas").glob("train_*.bmp")):
        if "anno" in path.name:
            continue
        small = cv2.resize(read_image(path), None, fx=0.1, fy=0.1, interpolation=cv2.INTER_AREA)
        shares.append(tissue_mask((small * np.array(gain)).astype(np.uint8), 6.2).mean())
    assert len(shares) == 85
    assert np.mean(shares) > 0.85
    assert min(shares) > 0.35  # train_67 is mostly glass


@pytest.mark.parametrize("ink", [(25, 25, 28), (30, 60, 190), (20, 130, 100), (200, 30, 50)])
def test_black_blue_green_and_red_ink_on_glass_is_not_tissue(ink: tuple[int, int, int]) -> None:
    thumbnail = np.full((200, 300, 3), 243, np.uint8)
    cv2.line(thumbnail, (20, 20), (280, 180), ink, 12)
    thumbnail = cv2.GaussianBlur(thumbnail, (0, 0), 2).astype(np.uint8)
    assert tissue_mask(thumbnail, 8.0).mean() < 0.01


def test_the_biopsy_on_the_demo_slide_is_found(demo_slide: Path) -> None:
    with open_slide(demo_slide) as slide:
        grid = GridReader(slide, 8.0)
        assert 0.3 < tissue_mask(grid.read(0, 0, grid.width, grid.height), 8.0).mean() < 0.45


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 2)])
def test_the_smallest_thumbnails_are_taken(shape: tuple[int, int]) -> None:
    assert not tissue_mask(np.full((*shape, 3), 240, np.uint8), 8.0).any()
