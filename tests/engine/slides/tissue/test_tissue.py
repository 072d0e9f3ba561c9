from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from glassrt.benchmarks.stains import MARKS, STAINS, Picture, mark_picture, shrink, stained
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.pictures.images import read_image
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.tissue.density import average, largest, least
from glassrt.engine.slides.tissue.glass import find_glass
from glassrt.engine.slides.tissue.masks import drop_small
from glassrt.engine.slides.tissue.survey import look_over

TILE_MPP = 4.0


def tile(data: Path, name: str) -> NDArray[np.uint8]:
    return read_image(data / "slides" / "tissue" / f"{name}.png")


def mask(pixels: NDArray[np.uint8], mpp: float = 8.0) -> NDArray[np.bool_]:
    return look_over(ArraySlide(np.ascontiguousarray(pixels), mpp), 1).tissue


@pytest.mark.parametrize(
    "name", ["almost-white-1", "no-tissue", "no-tissue2", "no-tissue-line", "no-tissue-green-pen", "no-tissue-red-pen"]
)
def test_glass_dust_and_pen_are_hardly_ever_tissue(data: Path, name: str) -> None:
    assert mask(tile(data, name), TILE_MPP).mean() < 0.02


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        # (rows, columns) of 512 that the eye sees as tissue, and as glass
        ("tissue-level2-1784-6289-5880-10386", (slice(0, 300), slice(300, 500)), (slice(350, 512), slice(0, 60))),
        ("tissue-level2-3000-7666-7096-11763", (slice(40, 250), slice(180, 380)), (slice(400, 512), slice(0, 110))),
        (
            "medium-nuclei-score-green-pen-level1",
            (slice(340, 480), slice(330, 500)),
            (slice(335, 355), slice(210, 228)),
        ),
    ],
)
def test_tissue_is_found_where_the_eye_sees_it(
    data: Path, name: str, inside: tuple[slice, slice], outside: tuple[slice, slice]
) -> None:
    found = cv2.resize(mask(tile(data, name), TILE_MPP).astype(np.uint8), (512, 512), interpolation=cv2.INTER_NEAREST)
    assert found[inside].mean() > 0.85
    assert found[outside].mean() < 0.1


@pytest.mark.parametrize("gain", [(1.0, 1.0, 1.0), (0.92, 0.92, 0.88), (0.85, 0.87, 0.9)])
def test_gland_images_are_nearly_all_tissue_under_any_light(data: Path, gain: tuple[float, float, float]) -> None:
    shares = []
    for path in sorted((data / "glas").glob("train_*.bmp")):
        if "anno" in path.name:
            continue
        small = cv2.resize(read_image(path), None, fx=0.1, fy=0.1, interpolation=cv2.INTER_AREA)
        shares.append(mask((small * np.array(gain)).astype(np.uint8)).mean())
    assert len(shares) == 85
    assert np.mean(shares) > 0.9
    assert min(shares) > 0.35  # train_67 is mostly glass


@pytest.mark.parametrize("name", STAINS)
def test_tissue_is_found_in_every_stain(data: Path, demo_slide: Path, name: str) -> None:
    """Skin and lymph node, with glass around, in colours made of theirs."""
    with open_slide(demo_slide) as slide:
        skin = slide.read_level(0, (0, 0), slide.levels[0].size)
    for pixels, mpp in ((skin, 0.499), (tile(data, "tissue-level2-3000-7666-7096-11763"), TILE_MPP)):
        picture = stained(pixels, mpp, STAINS[name])
        found = mask(picture.pixels)
        assert (picture.tissue & ~found).sum() < 0.015 * picture.tissue.sum()
        assert (picture.nothing & found).sum() <= 0.005 * picture.nothing.sum()


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize(("width_um", "soft_um"), [(400, 4), (400, 24), (800, 80)])
def test_ink_of_every_colour_is_left_out_and_tissue_beside_it_kept(
    data: Path, mark: str, width_um: float, soft_um: float
) -> None:
    everywhere = np.ones((300, 300), np.bool_)
    glass = Picture(np.full((300, 300, 3), 243, np.uint8), ~everywhere, everywhere)
    assert not mask(mark_picture(glass, MARKS[mark], width_um, soft_um).pixels).any()
    picture = stained(tile(data, "tissue-level2-1784-6289-5880-10386"), TILE_MPP, None)
    inked = mark_picture(picture, MARKS[mark], width_um, soft_um)
    assert (inked.tissue & ~mask(inked.pixels)).sum() < 0.01 * inked.tissue.sum()


@pytest.mark.parametrize("level", [0, 255, 240])
@pytest.mark.parametrize("around", [500, 3000])
@pytest.mark.parametrize("light", [(1, 1, 1), (1, 0.97, 1), (1, 0.98, 0.94)], ids=["plain", "tinted", "yellow"])
def test_what_was_not_scanned_moves_nothing(
    demo_slide: Path, level: int, around: int, light: tuple[float, float, float]
) -> None:
    """Black, white and grey surroundings of a scan, small and large, whatever the tint of its glass."""
    with open_slide(demo_slide) as slide:
        pixels = (slide.read_level(0, (0, 0), slide.levels[0].size) * light).astype(np.uint8)
    plain = mask(pixels, 0.499).mean() * pixels.shape[0] * pixels.shape[1]
    wide = np.pad(pixels, ((around, around), (around, around), (0, 0)), constant_values=level)
    assert mask(wide, 0.499).mean() * wide.shape[0] * wide.shape[1] == pytest.approx(plain, rel=0.04)


@pytest.mark.parametrize("light", [(0.95, 0.9, 0.8), (0.8, 0.8, 0.8)])
def test_dim_and_yellow_light_and_darker_corners_move_nothing(
    demo_slide: Path, light: tuple[float, float, float]
) -> None:
    with open_slide(demo_slide) as slide:
        pixels = slide.read_level(0, (0, 0), slide.levels[0].size)
    plain = mask(pixels, 0.499).mean()
    corner = 1 - 0.15 * np.linspace(0, 1, len(pixels))[:, None, None]
    assert mask((pixels * light).astype(np.uint8), 0.499).mean() == pytest.approx(plain, rel=0.05)
    assert mask((pixels * corner).astype(np.uint8), 0.499).mean() == pytest.approx(plain, rel=0.05)


def test_glass_is_taken_to_be_white_where_there_is_none(data: Path) -> None:
    pale = stained(read_image(data / "crchisto" / "img12" / "img12.bmp"), 0.55, STAINS["H&E, 0.3 of the density"])
    assert find_glass([pale.pixels]).densities == (0, 0, 0)
    assert mask(pale.pixels).mean() > 0.95


@pytest.mark.parametrize("band", [1, 700, 10**9])
@pytest.mark.parametrize("smallest", [2, 9.5, 40])
def test_small_pieces_are_dropped_alike_in_bands(band: int, smallest: float) -> None:
    pieces = cv2.GaussianBlur(np.random.default_rng(3).random((150, 70)), (0, 0), 1.2) > 0.53
    count, labels, stats, _ = cv2.connectedComponentsWithStats(pieces.view(np.uint8), connectivity=8)
    expected = np.isin(labels, [label for label in range(1, count) if stats[label, cv2.CC_STAT_AREA] >= smallest])
    assert 0 < expected.sum() < pieces.sum() or smallest == 2
    assert np.array_equal(drop_small(pieces, smallest, band), expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 2)])
def test_the_smallest_pictures_are_taken(shape: tuple[int, int]) -> None:
    assert not mask(np.full((*shape, 3), 240, np.uint8)).any()
    assert shrink(np.full((*shape, 3), 240, np.uint8), 8.0).shape == (*shape, 3)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_three_channels_are_reduced_as_numpy_does(kind: type) -> None:
    channels = np.random.default_rng(0).normal(128, 40, (30, 50, 3)).astype(kind)
    assert np.array_equal(least(channels), channels.min(-1))
    assert np.array_equal(largest(channels), channels.max(-1))
    assert np.array_equal(least(channels > 100), (channels > 100).all(-1))
    floats = channels.astype(np.float32)
    assert np.array_equal(average(floats), floats.mean(-1))
