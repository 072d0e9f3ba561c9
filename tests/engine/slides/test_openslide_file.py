"""What OpenSlide says of a slide is used as it means it: positions, bounds, transparency, resolution."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from made_tiffs import Pixels, stained, write_pages, write_scn

from glassrt.engine.errors import GlassError, SlideError
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.openslide_properties import read_bounds
from glassrt.engine.slides.pictures.colours import over_white
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.slide import lay_levels

SLOPE = 8  # grey levels a pixel: one pixel off is more than what interpolating by an eighth of one changes
SEPARATE = {"planarconfig": "separate"}  # planes of one colour: left to OpenSlide


def ramps(width: int, height: int) -> Pixels:
    """Pixels that tell where they are: triangle waves along x and y."""

    def wave(length: int, period: int) -> np.ndarray:
        place = np.arange(length) * SLOPE % (2 * period)
        return np.minimum(place, 2 * period - place)

    rows, columns = np.meshgrid(wave(height, 248), wave(width, 248), indexing="ij")
    return np.stack([columns, rows, np.full_like(rows, 128)], axis=-1).astype(np.uint8)


def write_pyramid(path: Path, sizes: list[tuple[int, int]], **options: Any) -> list[Pixels]:
    levels = [ramps(*size) for size in sizes]
    reduced: list[dict[str, Any]] = [{"subfiletype": int(number > 0)} for number in range(len(sizes))]
    if options.get("planarconfig"):
        pages = [np.ascontiguousarray(level.transpose(2, 0, 1)) for level in levels]
    else:
        pages = levels
    write_pages(path, list(zip(pages, reduced, strict=True)), **options)
    return levels


@pytest.mark.parametrize("options", [{}, SEPARATE], ids=["tiles", "OpenSlide"])
@pytest.mark.parametrize(
    "sizes",
    [
        [(4096, 2048), (1024, 512), (256, 128)],
        [(4003, 3001), (1000, 750), (250, 187)],
        [(6001, 1003), (1501, 251), (376, 63)],
        [(5999, 203), (1499, 50), (374, 12)],
        [(3000, 2990), (999, 997)],
    ],
    ids=["even", "rounded down", "rounded up", "flat", "thirds"],
)
def test_the_pixels_asked_for_are_the_ones_obtained(
    tmp_path: Path, options: dict[str, Any], sizes: list[tuple[int, int]]
) -> None:
    levels = write_pyramid(tmp_path / "a.tiff", sizes, **options)
    with open_slide(tmp_path / "a.tiff") as slide:
        assert tuple(level.size for level in slide.levels) == tuple(sizes)
        for level, (width, height) in enumerate(sizes):
            size = min(100, width), min(100, height)
            spare = width - size[0], height - size[1]
            for share in (Fraction(0), Fraction(1, 3), Fraction(3, 4), Fraction(1)):
                x, y = (int(each * share) for each in spare)
                read = slide.read_level(level, (x, y), size).astype(int)
                wrong = np.abs(read - levels[level][y : y + size[1], x : x + size[0]])
                # OpenSlide begins up to half a level-0 pixel off, and mixes the last pixel with what lies beyond.
                assert wrong[1:-1, 1:-1].max() <= SLOPE / 2, (level, x, y)


@pytest.mark.parametrize("options", [{}, SEPARATE], ids=["tiles", "OpenSlide"])
@pytest.mark.parametrize("second", [(1000, 728), (970, 750), (1024, 1024), (1000, 770)])
def test_levels_of_another_shape_are_left_out(tmp_path: Path, options: dict[str, Any], second: tuple[int, int]) -> None:
    """Stretched or padded, nothing says where their pixels lie; what is finer or coarser still serves."""
    sizes = [(4000, 3000), second, (500, 375)]
    levels = write_pyramid(tmp_path / "a.tiff", sizes, **options)
    with open_slide(tmp_path / "a.tiff") as slide:
        assert tuple(level.size for level in slide.levels) == (sizes[0], sizes[2])
        assert GridReader(slide, slide.mpp * 4).level == 0
        assert np.array_equal(slide.read_level(0, (1777, 1333), (50, 40)), levels[0][1333:1373, 1777:1827])
        assert np.array_equal(slide.read_level(1, (177, 133), (50, 40)), levels[2][133:173, 177:227])


@pytest.mark.parametrize("options", [{}, SEPARATE], ids=["tiles", "OpenSlide"])
def test_levels_say_their_scale_along_each_axis_and_the_size_of_their_tiles(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    write_pyramid(tmp_path / "a.tiff", [(4003, 3001), (1000, 750), (250, 187)], **options)
    with open_slide(tmp_path / "a.tiff") as slide:
        assert [level.scale for level in slide.levels] == [
            (1.0, 1.0),
            (4003 / 1000, 3001 / 750),
            (4003 / 250, 3001 / 187),
        ]
        assert {level.tile for level in slide.levels} == {(256, 256)}
        assert slide.overview() is None


def test_a_level_must_be_fine_enough_along_both_axes() -> None:
    class Tall(ArraySlide):
        levels = lay_levels([(400, 4000), (101, 960), (10, 100)])

        def __init__(self) -> None:
            self.mpp, self.name = 0.5, "tall"

    assert GridReader(Tall(), 2.0).level == 0
    assert GridReader(Tall(), 2.2).level == 1


SCN_SIZE, SCN_PLACE, SCN_WHOLE = (900, 700), (1500, 1000), (3000, 2200)


def test_bounds_are_the_scanned_part_and_the_rest_is_white(tmp_path: Path) -> None:
    pixels = stained(*SCN_SIZE)
    path = write_scn(tmp_path / "a.scn", pixels, SCN_PLACE, SCN_WHOLE)
    with open_slide(path) as slide:
        assert slide.levels[0].size == SCN_WHOLE
        assert slide.bounds == Box(1500, 1000, 2400, 1700)
        expected = np.full((*SCN_WHOLE[::-1], 3), 255, np.uint8)
        expected[1000:1700, 1500:2400] = pixels
        assert np.array_equal(slide.read_level(0, (0, 0), SCN_WHOLE), expected)


@pytest.mark.parametrize(
    ("stated", "bounds"),
    [
        ((10, 20, 30, 40), Box(10, 20, 40, 60)),
        ((0, 0, 100, 200), None),  # the whole
        ((0, 0, 100, 199), Box(0, 0, 100, 199)),
        ((90, 20, 30, 400), Box(90, 20, 100, 200)),  # ends beyond: viewers still begin there
        ((-1, 0, 30, 40), None),
        ((100, 0, 30, 40), None),
        ((10, 20, 0, 40), None),
        ((10, 20, 30, -4), None),
        ((10, 20, 30, "4.5"), None),
        ((10, 20, 30, None), None),
    ],
)
def test_bounds_that_are_no_part_of_the_slide_are_none(stated: tuple[Any, ...], bounds: Box | None) -> None:
    sides = ("x", "y", "width", "height")
    properties = {
        f"openslide.bounds-{side}": str(value) for side, value in zip(sides, stated, strict=True) if value is not None
    }
    assert read_bounds(properties, (100, 200)) == bounds


@pytest.mark.parametrize("alpha", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_what_shows_through_is_white(tmp_path: Path, alpha: str, compression: str | None) -> None:
    pixels = stained(600, 500)
    opacity = np.tile(np.linspace(0, 255, 600).astype(np.uint8), (500, 1))
    share = opacity[..., None] / 255
    kept = np.rint(pixels * share).astype(np.uint8) if alpha == "assocalpha" else np.where(share > 0, pixels, 0)
    page = np.dstack([kept, opacity]).astype(np.uint8)
    path = write_pages(tmp_path / "a.tiff", [(page, {"extrasamples": [alpha]})], compression=compression)
    with open_slide(path) as slide:
        read = slide.read_level(0, (0, 0), (600, 500))
    assert np.abs(read - (pixels * share + 255 * (1 - share))).max() < 1.6
    assert (read[:, 0] == 255).all()


def test_opaque_pixels_stay_as_they_are() -> None:
    pixels = stained(50, 40)
    assert np.array_equal(over_white(np.dstack([pixels, np.full((40, 50), 255, np.uint8)])), pixels)


def rename_tag(path: Path, code: int) -> None:
    """Turn a tag of the first page into one that nobody knows."""
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.tags[code].offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 2] = (65_000 + code).to_bytes(2, "little")
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("x", "y", "given", "expected"),
    [
        (0.5, 0.5, None, 0.5),
        (0.5, 0.505, None, (0.5 * 0.505) ** 0.5),
        (0.5, 0.505, 0.25, 0.25),
        (0.5, None, 0.25, 0.25),
        (None, 0.5, 0.25, 0.25),
        (None, None, 0.25, 0.25),
        (50, 50, 0.25, 0.25),
        (0.5, 0.75, None, "pixels are not square .0.5 x 0.75 micrometres"),
        (0.5, 0.75, 0.5, "pixels are not square .0.5 x 0.75 micrometres., which --mpp cannot mend"),
        (0.5, 0.515, 0.5, "pixels are not square"),
        (50, 75, 0.5, "pixels are not square"),
        (0.5, None, None, "says its resolution along one axis only; pass it with --mpp"),
        (None, None, None, "does not say its resolution; pass it with --mpp"),
        (50, 50, None, "claims 50 micrometres per pixel, which no scan has; pass the true value with --mpp"),
        (0.5, 0.5, 50, "--mpp 50 is not between"),
    ],
)
def test_both_axes_decide_on_the_resolution(
    tmp_path: Path, x: float | None, y: float | None, given: float | None, expected: float | str
) -> None:
    options = {"resolution": tuple(1e4 / (mpp or 1) for mpp in (x, y))}
    path = write_pages(tmp_path / "a.tiff", [(stained(300, 280), options)])
    for mpp, code in ((x, 282), (y, 283)):
        if mpp is None:
            rename_tag(path, code)
    if isinstance(expected, str):
        with pytest.raises(GlassError, match=rf"a\.tiff: .*{expected}"):
            open_slide(path, given)
        return
    with open_slide(path, given) as slide:
        assert slide.mpp == pytest.approx(expected, rel=1e-4)


def test_what_openslide_cannot_read_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    write_pages(path, [(stained(600, 500).transpose(2, 0, 1).copy(), {})], compression="zlib", **SEPARATE)
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[offset + 100 : offset + 5000] = bytes(4900)
    path.write_bytes(content)
    with (
        open_slide(path) as slide,
        pytest.raises(SlideError, match=r"a\.tiff: cannot be read: 300 x 200 pixels from x 9"),
    ):
        slide.read_level(0, (9, 5), (300, 200))


def test_tiles_that_no_memory_holds_are_refused(tmp_path: Path) -> None:
    """OpenSlide ends the whole process where it cannot allocate one."""
    path = write_pages(tmp_path / "a.tiff", [(stained(600, 500), {})], compression="zlib")
    with tifffile.TiffFile(path) as file:
        places = [file.pages.first.tags[code].valueoffset for code in (322, 323)]
        kinds = [file.pages.first.tags[code].dtype for code in (322, 323)]
    content = bytearray(path.read_bytes())
    for place, kind in zip(places, kinds, strict=True):
        length = 2 if kind == 3 else 4
        content[place : place + length] = (0xFFF0).to_bytes(length, "little")
    path.write_bytes(content)
    with pytest.raises(SlideError, match=r"a\.tiff: claims tiles of 65520 x 65520 pixels"):
        open_slide(path)
