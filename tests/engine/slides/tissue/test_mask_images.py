"""Masks of tissue as images: palettes, orientation, several pictures, damage."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from glassrt.engine.errors import SlideError
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.tissue.annotations import read_mask

SLIDE = ArraySlide(np.full((600, 1000, 3), 240, np.uint8), 2.0)
TRUTH = np.zeros((600, 1000), np.uint8)
TRUTH[100:300, 200:500] = 1
WHITE, BLACK, RED, GREEN = [255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 200, 0]


def with_palette(numbers: np.ndarray, *colours: list[int]) -> Image.Image:
    image = Image.fromarray(numbers).convert("P")
    image.putpalette([value for colour in colours for value in colour])
    return image


def with_orientation(path: Path, pixels: np.ndarray, orientation: int) -> None:
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="minisblack", extratags=[(274, 3, 1, orientation, True)])
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(pixels).save(path, exif=exif)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("colours", [[WHITE, RED], [BLACK, BLACK], [BLACK, RED], [RED, GREEN]])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_numbers_of_a_palette_count_not_its_colours(
    tmp_path: Path, name: str, colours: list[list[int]], bits: int
) -> None:
    image = with_palette(TRUTH, *colours)
    image.save(tmp_path / name, **({"bits": bits} if name == "a.png" else {}))
    assert np.array_equal(read_mask(tmp_path / name, SLIDE), TRUTH > 0)


def test_see_through_colours_of_a_palette_are_no_tissue(tmp_path: Path) -> None:
    numbers = TRUTH + 1
    numbers[:50] = 3
    with_palette(numbers, BLACK, WHITE, RED, GREEN).save(tmp_path / "a.png", transparency=bytes([255, 0, 255, 0]))
    assert np.array_equal(read_mask(tmp_path / "a.png", SLIDE), TRUTH > 0)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_palette_sorted_by_colour_is_refused(tmp_path: Path, name: str) -> None:
    """Programs that save a black and white picture with few colours may give 0 to white."""
    Image.fromarray(TRUTH * 255).convert("RGB").quantize(2).save(tmp_path / name)
    with pytest.raises(SlideError, match="has a colour for 0, which is no tissue, and black for another number"):
        read_mask(tmp_path / name, SLIDE)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (2, TRUTH[:, ::-1]),
        (3, TRUTH[::-1, ::-1]),
        (4, TRUTH[::-1]),
        (6, np.rot90(TRUTH, 1)),  # viewers turn it clockwise
        (8, np.rot90(TRUTH, -1)),
    ],
)
def test_a_mask_is_turned_upright(tmp_path: Path, name: str, orientation: int, stored: np.ndarray) -> None:
    with_orientation(tmp_path / name, np.ascontiguousarray(stored), orientation)
    assert np.array_equal(read_mask(tmp_path / name, SLIDE), TRUTH > 0)


def test_several_pictures_are_refused_but_smaller_copies(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([TRUTH, TRUTH]), photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", np.stack([TRUTH, TRUTH]), imagej=True)
    for name in ("a.tif", "b.tif"):
        with pytest.raises(SlideError, match=rf"{name}: holds 2 pictures"):
            read_mask(tmp_path / name, SLIDE)
    with tifffile.TiffWriter(tmp_path / "c.tif") as file:
        file.write(TRUTH, photometric="minisblack", subifds=1)
        file.write(TRUTH[::2, ::2], photometric="minisblack", subfiletype=1)
    assert np.array_equal(read_mask(tmp_path / "c.tif", SLIDE), TRUTH > 0)


def test_a_picture_that_shows_0_white_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", 255 - TRUTH * 255, photometric="miniswhite")
    with pytest.raises(SlideError, match=r"a\.tif: shows its 0 white \(WhiteIsZero\)"):
        read_mask(tmp_path / "a.tif", SLIDE)


@pytest.mark.parametrize(
    ("compression", "damage"),
    [(each, damage) for each in ("zlib", "lzw", "packbits") for damage in ("zeroed", "cut")] + [(None, "cut")],
)
def test_a_damaged_tiff_is_named(tmp_path: Path, compression: str | None, damage: str) -> None:
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {"compression": compression, "rowsperstrip": 50}
    tifffile.imwrite(path, TRUTH * 255, **options)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages.first.dataoffsets[3], file.pages.first.databytecounts[3]
    if damage == "cut":
        content = content[: offset + count // 2]
    else:
        content[offset : offset + count] = bytes(count)
    path.write_bytes(content)
    with pytest.raises(SlideError, match=r"a\.tif: (not a readable mask image|the mask cannot be read)") as caught:
        read_mask(path, SLIDE)
    assert "\n" not in str(caught.value)


def test_a_damaged_png_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(TRUTH).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(SlideError, match=r"a\.png: damaged between bytes"):
        read_mask(path, SLIDE)
