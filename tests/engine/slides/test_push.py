"""Tiles that are handed in: in any order and form, twice, beside each other, beside the slide, or never."""

import threading

import imagecodecs
import numpy as np
import pytest
import simplejpeg

from glassrt.engine.errors import SlideError
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.slides.push import PushSlide, Tile

RANDOM = np.random.default_rng(7)
PICTURE = RANDOM.integers(0, 256, (150, 220, 3), np.uint8)  # neither side is a multiple of a tile's


def open_push(tile: int = 64) -> PushSlide:
    return PushSlide([(220, 150), (110, 75)], 0.5, tile)


def cut(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    return np.ascontiguousarray(PICTURE[top:bottom, left:right])


def read(slide: PushSlide) -> np.ndarray:
    return slide.read_level(0, (0, 0), (220, 150))


@pytest.mark.parametrize("side", [32, 64, 100, 220])
def test_tiles_of_any_lattice_in_any_order_make_the_picture(side: int) -> None:
    slide = open_push()
    places = [(x, y) for y in range(0, 150, side) for x in range(0, 220, side)]
    RANDOM.shuffle(places)
    for x, y in places:
        slide.push(0, x, y, cut(x, y, min(x + side, 220), min(y + side, 150)))
    assert np.array_equal(read(slide), PICTURE)


@pytest.mark.parametrize("order", ["rgb", "bgr", "rgba", "bgra"])
def test_raw_pixels_come_in_any_order_of_channels(order: str) -> None:
    pixels = PICTURE[..., ::-1] if order.startswith("bgr") else PICTURE
    if order.endswith("a"):
        pixels = np.dstack([pixels, np.full(PICTURE.shape[:2], 255, np.uint8)])
    slide = open_push()
    slide.push(0, 0, 0, np.ascontiguousarray(pixels), order)  # type: ignore[arg-type]
    assert np.array_equal(read(slide), PICTURE)


def test_transparent_pixels_are_white() -> None:
    slide = open_push()
    slide.push(0, 0, 0, np.dstack([PICTURE, np.zeros(PICTURE.shape[:2], np.uint8)]), "rgba")
    assert (read(slide) == 255).all()


@pytest.mark.parametrize("photometric", ["ycbcr", "rgb"])
def test_a_jpeg_tile_is_decoded_as_in_a_file(photometric: str) -> None:
    encoded = imagecodecs.jpeg8_encode(PICTURE, level=85, colorspace="RGB", outcolorspace=photometric.upper())
    slide = PushSlide([(220, 150)], 0.5, 64, photometric=photometric)  # type: ignore[arg-type]
    slide.push(0, 0, 0, encoded)
    expected = imagecodecs.jpeg8_decode(encoded, colorspace=photometric.upper(), outcolorspace="RGB")
    assert np.array_equal(read(slide), expected)


def test_a_jpeg_2000_tile_is_taken() -> None:
    slide = open_push()
    slide.push(0, 0, 0, imagecodecs.jpeg2k_encode(PICTURE, level=0, reversible=True))
    assert np.array_equal(read(slide), PICTURE)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_jpeg_2000_file_is_measured_by_its_picture(kind: type) -> None:
    slide = open_push()
    slide.push(0, 0, 0, kind(SPOOFED))
    assert np.array_equal(read(slide), PICTURE)


def test_pixels_stay_what_they_were_first_and_what_lies_beyond_is_cut_off() -> None:
    slide = open_push()
    slide.push(0, 0, 0, cut(0, 0, 100, 150))
    slide.push(0, 40, -30, np.zeros((400, 400, 3), np.uint8))
    expected = PICTURE.copy()
    expected[:, 100:] = 0
    assert np.array_equal(read(slide), expected)


def test_what_never_came_cannot_be_read_until_it_is_filled() -> None:
    slide = open_push()
    slide.push(0, 0, 0, cut(0, 0, 100, 100))
    assert slide.has(0, Box(0, 0, 100, 100))
    assert not slide.has(0, Box(0, 0, 101, 100))
    with pytest.raises(SlideError, match="not all of x 0, y 0 of level 0 has been scanned"):
        read(slide)
    slide.fill()
    expected = np.full_like(PICTURE, 255)
    expected[:100, :100] = PICTURE[:100, :100]
    assert np.array_equal(read(slide), expected)


def test_tiles_belong_to_the_slide_and_not_to_who_pushed_them() -> None:
    slide, mine = open_push(), PICTURE.copy()
    slide.push(0, 0, 0, mine)
    mine[:] = 0
    assert np.array_equal(read(slide), PICTURE)


def test_only_what_is_needed_is_kept_and_only_until_it_was_used() -> None:
    slide, whole = open_push(), []
    uses = np.zeros(slide.lattice(0), np.int64)
    uses[1, 2], uses[0, 0] = 2, 1
    slide.keep(0, uses, lambda row, column, arrived: whole.append((row, column)))
    slide.push(0, 0, 0, PICTURE)
    slide.push(1, 0, 0, np.zeros((75, 110, 3), np.uint8))
    assert sorted(whole) == [(0, 0), (1, 2)]
    assert len(slide._blocks) == 2
    slide.release(0, Box(130, 70, 140, 80))
    assert len(slide._blocks) == 2
    slide.release(0, Box(130, 70, 140, 80))
    slide.release(0, Box(0, 0, 1, 1))
    assert not slide._blocks
    slide.push(0, 0, 0, PICTURE)
    assert not slide._blocks


def test_threads_push_at_once() -> None:
    slide, whole = open_push(16), []
    slide.keep(0, np.ones(slide.lattice(0), np.int64), lambda row, column, arrived: whole.append((row, column)))

    def push(first: int) -> None:
        for y in range(first * 10, 150, 40):
            slide.push(0, 0, y, cut(0, y, 220, min(y + 25, 150)))

    threads = [threading.Thread(target=push, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(read(slide), PICTURE)
    assert len(whole) == len({*whole}) == slide.lattice(0)[0] * slide.lattice(0)[1]


JPEG = simplejpeg.encode_jpeg(PICTURE)
J2K = imagecodecs.jpeg2k_encode(PICTURE, level=0, reversible=True, codecformat="J2K")
JP2 = imagecodecs.jpeg2k_encode(PICTURE, level=0, reversible=True, codecformat="JP2")
SMALL = imagecodecs.jpeg2k_encode(np.ascontiguousarray(PICTURE[:64, :64]), level=0, reversible=True, codecformat="J2K")
# A box of another kind before the picture, which begins as a picture of another size does.
SPOOFED = JP2[:32] + (8 + 60).to_bytes(4) + b"uuid" + SMALL[:60] + JP2[32:]


@pytest.mark.parametrize(
    ("tile", "says"),
    [
        (Tile(2, 0, 0, PICTURE), "no level 2: it has 2"),
        (Tile(-1, 0, 0, PICTURE), "no level -1"),
        (Tile(0, 220, 0, PICTURE), "x 220, y 0 lies beside level 0 of 220 x 150"),
        (Tile(0, -(10**30), 0, PICTURE), "lies beside level 0"),
        (Tile(0, 0, 0, PICTURE[..., 0]), r"is uint8 \[150, 220\], expected uint8 \[H, W, 3\]"),
        (Tile(0, 0, 0, PICTURE.astype(np.uint16)), r"is uint16"),
        (Tile(0, 0, 0, PICTURE, "rgba"), r"expected uint8 \[H, W, 4\]"),
        (Tile(0, 0, 0, PICTURE[:0]), r"is uint8 \[0, 220, 3\]"),
        (Tile(0, 0, 0, PICTURE, "BGR"), "has the order 'BGR': expected one of rgb, bgr, rgba, bgra"),
        (Tile(0, 0, 0, np.dstack([PICTURE, PICTURE[..., :1]]), "argb"), "has the order 'argb'"),
        (Tile(0, 0, 0, None), "is NoneType, expected an array or bytes"),
        (Tile(0, 0.5, 0, PICTURE), "at 0, 0.5, 0: expected whole numbers"),
        (Tile(0, 0, 0, JP2[:-9] + b"\0" * 9), "is damaged .it has no end.; push it again"),
        (Tile(0, 0, 0, J2K[:-90]), "is damaged .it has no end.; push it again"),
        (Tile(0, 0, 0, J2K[:200] + b"\xff\xd9"), "is damaged|JPEG 2000"),
        (Tile(0, 0, 0, SPOOFED[:40]), "is no JPEG and no JPEG 2000"),
        (Tile(0, 0, 0, b""), "is no JPEG and no JPEG 2000"),
        (Tile(0, 0, 0, b"\x89PNG"), "is no JPEG and no JPEG 2000"),
        (Tile(0, 0, 0, JPEG[:3]), "is damaged"),
        (Tile(0, 0, 0, JPEG[: len(JPEG) // 2]), "is damaged .*; push it again"),
        (Tile(0, 0, 0, b"\xff\x4f\xff\x51" + bytes(40)), "is damaged"),
        (Tile(0, 0, 0, np.zeros((1, 9000, 3), np.uint8)), "has 9000 x 1 pixels: 8192 a side are the most"),
    ],
)  # fmt: skip
def test_a_tile_that_is_none_is_refused_and_the_slide_goes_on(tile: Tile, says: str) -> None:
    slide = open_push()
    with pytest.raises(SlideError, match=says):
        slide.push(*tile)
    slide.push(0, 0, 0, PICTURE)
    assert np.array_equal(read(slide), PICTURE)


@pytest.mark.parametrize(
    ("levels", "mpp", "tile", "says"),
    [
        ([], 0.5, 256, "expected widths and heights"),
        ([(0, 10)], 0.5, 256, "expected widths and heights"),
        ([(10, 10), (20, 5)], 0.5, 256, "the largest first"),
        ([(10**6, 10**6)], 0.5, 256, "1000000 x 1000000 pixels: 4e\\+10 are the most"),
        ([(10, 10)], 0.0, 256, "0 micrometres per pixel: expected 0.05 to 20"),
        ([(10, 10)], float("nan"), 256, "nan micrometres per pixel"),
        ([(10, 10)], 0.5, 8, "tiles of 8 x 8 pixels: expected 16 to 8192"),
    ],
)
def test_a_slide_that_no_scanner_makes_is_refused(levels: list, mpp: float, tile: int, says: str) -> None:
    with pytest.raises(SlideError, match=says):
        PushSlide(levels, mpp, tile)


@pytest.mark.parametrize("bounds", [(5000, 0, 6000, 100), (-10, -10, 100, 100), (200, 100, 100, 150), (0, 0, 220, 151)])
def test_a_scanned_part_that_is_none_is_refused(bounds: tuple[int, int, int, int]) -> None:
    with pytest.raises(SlideError, match="does not lie within 220 x 150 pixels"):
        PushSlide([(220, 150)], 0.5, 64, bounds=Box(*bounds))
