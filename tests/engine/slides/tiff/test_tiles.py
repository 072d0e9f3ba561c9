"""Tiles of TIFF files are whole or refused, whichever reader takes them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from made_tiffs import APERIO, COMPRESSION, Pixels, cut_tiles, encode, stained, write_pages, write_tiles

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE, open_bundle
from glassrt.engine.errors import SlideError
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.tasks.scoring import score

WIDTH, HEIGHT = 700, 600
MIDDLE, CORNER = 4, 8  # of nine tiles; the last has 188 x 88 pixels inside the picture
ERROR = {"jpeg": 12}  # grey levels that a codec loses


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return stained(WIDTH, HEIGHT)


def make(folder: Path, pixels: Pixels, codec: str, cut: dict[int, tuple[int, int]]) -> Path:
    """A slide in tiles of 256, of which some are cut or extended to (width, height)."""
    tiles = list(cut_tiles(pixels))
    for index, (width, height) in cut.items():
        tiles[index] = np.pad(tiles[index], ((0, 64), (0, 64), (0, 0)), "edge")[:height, :width]
    named = {"description": APERIO.format(WIDTH, HEIGHT)} if codec == "jpeg2000" else {}
    path = folder / ("made.svs" if named else "made.tiff")
    return write_tiles(path, (WIDTH, HEIGHT), (encode(tile, codec) for tile in tiles), codec, **named)


@pytest.mark.parametrize("codec", COMPRESSION)
def test_whole_tiles_are_read_as_they_are(tmp_path: Path, pixels: Pixels, codec: str) -> None:
    with open_slide(make(tmp_path, pixels, codec, {})) as slide:
        read = slide.read_level(0, (0, 0), (WIDTH, HEIGHT))
    assert np.abs(read.astype(int) - pixels).max() <= ERROR.get(codec, 0)


@pytest.mark.parametrize("codec", ["none", "lzw", "deflate", "jpeg"])
@pytest.mark.parametrize("size", [(188, 88), (256, 88), (256, 256)])
def test_a_tile_on_the_border_may_be_cut_to_the_picture(
    tmp_path: Path, pixels: Pixels, codec: str, size: tuple[int, int]
) -> None:
    with open_slide(make(tmp_path, pixels, codec, {CORNER: size})) as slide:
        read = slide.read_level(0, (0, 0), (WIDTH, HEIGHT))
    assert np.abs(read.astype(int) - pixels).max() <= ERROR.get(codec, 0)


@pytest.mark.parametrize("codec", COMPRESSION)
@pytest.mark.parametrize(
    ("index", "size"), [(MIDDLE, (128, 128)), (MIDDLE, (256, 128)), (MIDDLE, (255, 256)), (CORNER, (188, 40))]
)
def test_a_tile_that_lacks_pixels_is_refused_with_its_place(
    tmp_path: Path, pixels: Pixels, codec: str, index: int, size: tuple[int, int]
) -> None:
    path = make(tmp_path, pixels, codec, {index: size})
    left, top = index % 3 * 256, index // 3 * 256
    with pytest.raises(SlideError, match=f"made.*x {left}, y {top}"), open_slide(path) as slide:
        slide.read_level(0, (left, top), (100, 80))


@pytest.mark.parametrize("codec", ["jpeg", "jpeg2000"])
@pytest.mark.parametrize("size", [(300, 300), (512, 128), (128, 512)])
def test_a_tile_of_another_form_is_refused_with_its_place(
    tmp_path: Path, pixels: Pixels, codec: str, size: tuple[int, int]
) -> None:
    tiles = [encode(tile, codec) for tile in cut_tiles(pixels)]
    tiles[MIDDLE] = encode(stained(*size), codec)
    path = tmp_path / "made.svs"
    write_tiles(path, (WIDTH, HEIGHT), tiles, codec, description=APERIO.format(WIDTH, HEIGHT))
    with pytest.raises(SlideError, match=r"made\.svs.*x 256, y 256"), open_slide(path) as slide:
        slide.read_level(0, (256, 256), (100, 80))


@pytest.mark.parametrize("odd", [MIDDLE, CORNER, 1])
def test_one_tile_that_openslide_sees_otherwise_leaves_the_file_to_it(tmp_path: Path, pixels: Pixels, odd: int) -> None:
    """A tile that claims other colours than its page, of white around it: the middle, the last, the fullest."""
    tiles = [encode(np.full((256, 256, 3), 255, np.uint8), "jpeg") for _ in range(9)]
    coded = encode(next(cut_tiles(pixels)), "jpeg")
    tiles[odd] = (
        coded[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00" + coded[20:]
    )  # in the place of the JFIF marker
    path = write_tiles(tmp_path / "made.tiff", (WIDTH, HEIGHT), tiles, "jpeg")
    with open_slide(path) as slide, openslide.OpenSlide(path) as plain:
        expected = np.asarray(plain.read_region((0, 0), 0, (WIDTH, HEIGHT)).convert("RGB"))
        assert np.array_equal(slide.read_level(0, (0, 0), (WIDTH, HEIGHT)), expected)


@pytest.mark.parametrize("side", [16, 240, 272])
def test_plain_tiles_whose_bytes_are_no_multiple_of_1024_are_read(tmp_path: Path, pixels: Pixels, side: int) -> None:
    """OpenSlide's libtiff calls them damaged."""
    path = write_pages(tmp_path / "made.tiff", [(pixels, {})], tile=(side, side))
    with openslide.OpenSlide(path) as plain, pytest.raises(openslide.OpenSlideError, match="byte count"):
        plain.read_region((0, 0), 0, (WIDTH, HEIGHT))
    with open_slide(path) as slide:
        assert np.array_equal(slide.read_level(0, (0, 0), (WIDTH, HEIGHT)), pixels)


def point_beyond(content: bytearray, page: tifffile.TiffPage) -> bytearray:
    tag = page.tags[324]
    content[tag.valueoffset + 4 * MIDDLE : tag.valueoffset + 4 * MIDDLE + 4] = (2**32 - 2**20).to_bytes(4, "little")
    return content


def claim_much(content: bytearray, page: tifffile.TiffPage) -> bytearray:
    tag = page.tags[325]
    content[tag.valueoffset + 4 * MIDDLE : tag.valueoffset + 4 * MIDDLE + 4] = (2**31 + 5).to_bytes(4, "little")
    return content


@pytest.mark.parametrize("compression", [None, "zlib", "jpeg"])
@pytest.mark.parametrize("change", [point_beyond, claim_much])
def test_a_tile_beyond_the_end_of_the_file_is_refused_with_its_place(
    tmp_path: Path,
    pixels: Pixels,
    compression: str | None,
    change: Callable[[bytearray, tifffile.TiffPage], bytearray],
) -> None:
    path = tmp_path / "made.tiff"
    reduced = (np.ascontiguousarray(pixels[::2, ::2]), {"subfiletype": 1})
    write_pages(path, [(pixels, {}), reduced], compression=compression)
    with tifffile.TiffFile(path) as file:
        content = change(bytearray(path.read_bytes()), file.pages.first)
    path.write_bytes(content)
    with pytest.raises(SlideError, match=r"x 256, y 256.*the file ends before it"), open_slide(path) as slide:
        slide.read_level(0, (256, 256), (9, 9))


@pytest.mark.parametrize("target", ["/proc/self/mem", "."], ids=["EIO", "EISDIR"])
def test_a_read_that_fails_is_told_as_one(tmp_path: Path, demo_slide: Path, target: str) -> None:
    """The slide's open file is exchanged for one that the system refuses to read, as when a mount goes away."""
    lost = shutil.copy(demo_slide, tmp_path / "lost.svs")
    with open_slide(lost) as slide:
        descriptors = {int(name): os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")}
        replacement = os.open(target, os.O_RDONLY)
        for descriptor, path in descriptors.items():
            if path == str(lost):
                os.dup2(replacement, descriptor)
        os.close(replacement)
        with pytest.raises(SlideError, match=r"lost\.svs: reading failed at x \d+, y \d+ \("):
            score(slide, open_bundle(DEFAULT_BUNDLE), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["lost.svs"]
