"""Of the pictures in a TIFF file none is taken for the slide that is not the slide."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from made_tiffs import APERIO, Pixels, stained, write_pages

from glassrt.engine.errors import SlideError
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.tiff import pages as tiff_pages

WIDTH, HEIGHT = 1000, 800
FULL, SECOND = stained(WIDTH, HEIGHT), stained(WIDTH, HEIGHT, 1)
HALF, QUARTER, THUMB = (np.ascontiguousarray(FULL[::step, ::step]) for step in (2, 4, 5))
REDUCED = {"subfiletype": 1}
STRIPS = {"tile": None, "rowsperstrip": 64}
SVS = {"description": APERIO.format(WIDTH, HEIGHT)}
Pages = list[tuple[Pixels, dict[str, Any]]]

GOOD: dict[str, tuple[str, Pages, int]] = {
    "one page": ("a.tiff", [(FULL, {})], 1),
    "a pyramid": ("a.tiff", [(FULL, {}), (HALF, REDUCED), (QUARTER, REDUCED)], 3),
    "a pyramid that is not marked as one": ("a.tiff", [(FULL, {}), (HALF, {}), (QUARTER, {})], 1),
    "a pyramid, label and overview": (
        "a.tiff",
        [(FULL, {}), (HALF, REDUCED), (stained(300, 290), {}), (stained(600, 200), STRIPS)],
        2,
    ),
    "a label marked as a level": ("a.tiff", [(FULL, {}), (HALF, REDUCED), (stained(300, 290), REDUCED)], 2),
    "a transparency mask": ("a.tiff", [(FULL, {}), (SECOND[..., 0] > 200, {"subfiletype": 4, "photometric": 4})], 1),
    "SVS": (
        "a.svs",
        [(FULL, SVS), (THUMB, {**SVS, **STRIPS}), (HALF, SVS), (stained(1300, 1200), {**SVS, **STRIPS, **REDUCED})],
        2,
    ),
}

REFUSED: dict[str, tuple[str, Pages, str]] = {
    "a thumbnail first": (
        "a.tiff",
        [(THUMB, {}), (FULL, {}), (HALF, REDUCED)],
        "several pictures .page 1 of 200 x 160, page 2 of 1000 x 800",
    ),
    "a thumbnail first, marked": (
        "a.tiff",
        [(THUMB, REDUCED), (FULL, {}), (HALF, REDUCED)],
        "page 1 of 200 x 160, page 2 of 1000 x 800",
    ),
    "a thumbnail first, all marked": (
        "a.tiff",
        [(THUMB, REDUCED), (FULL, REDUCED), (HALF, REDUCED)],
        "page 1 of 200 x 160, page 2 of 1000 x 800",
    ),
    "a thumbnail before strips": ("a.tiff", [(THUMB, {}), (FULL, STRIPS)], "page 1 of 200 x 160, page 2 of 1000 x 800"),
    "two scans": (
        "a.tiff",
        [(FULL, {}), (stained(900, 810), {})],
        "page 1 of 1000 x 800, page 2 of 900 x 810",
    ),
    "focal planes": ("a.tiff", [(FULL, {}), (SECOND, {}), (FULL, {})], "3 pictures of 1000 x 800"),
    "focal planes with pyramids": (
        "a.tiff",
        [(FULL, {}), (HALF, REDUCED), (SECOND, {}), (HALF, REDUCED)],
        "2 pictures of 1000 x 800",
    ),
    "focal planes in SVS": ("a.svs", [(FULL, SVS), (SECOND, SVS), (HALF, SVS)], "2 pictures of 1000 x 800"),
    "one page a colour": (
        "a.tiff",
        [(np.ascontiguousarray(FULL[..., channel]), {"photometric": "minisblack"}) for channel in range(3)],
        "3 pictures of 1000 x 800 pixels .focal planes, single colours",
    ),
    "many scans": ("a.tiff", [(stained(1000 - side, 800), {}) for side in range(0, 400, 50)], "and more"),
}


@pytest.mark.parametrize("case", GOOD)
def test_the_slide_is_read_beside_what_belongs_to_it(tmp_path: Path, case: str) -> None:
    name, pages, levels = GOOD[case]
    with open_slide(write_pages(tmp_path / name, pages)) as slide:
        assert tuple(level.size for level in slide.levels) == ((1000, 800), (500, 400), (250, 200))[:levels]
        assert slide.mpp == pytest.approx(0.5)
        assert np.array_equal(slide.read_level(0, (0, 0), (WIDTH, HEIGHT)), FULL)


@pytest.mark.parametrize("case", REFUSED)
def test_several_pictures_are_refused_with_what_is_there(tmp_path: Path, case: str) -> None:
    name, pages, says = REFUSED[case]
    path = write_pages(tmp_path / name, pages)
    with pytest.raises(SlideError, match=says) as caught:
        open_slide(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_ome_tiff_of_two_scans_is_refused(tmp_path: Path) -> None:
    path = write_pages(tmp_path / "two.ome.tiff", [(FULL, {"metadata": {}}), (SECOND[:760], {"metadata": {}})])
    with pytest.raises(SlideError, match="page 1 of 1000 x 800, page 2 of 1000 x 760"):
        open_slide(path)


@pytest.mark.parametrize("turn", range(2, 9))
@pytest.mark.parametrize("compression", [None, "zlib", "jpeg"])
@pytest.mark.parametrize("blank", [True, False])
def test_turned_pictures_are_refused_whatever_they_show(
    tmp_path: Path, turn: int, compression: str | None, blank: bool
) -> None:
    """OpenSlide turns each tile in its place, or none, depending on the compression."""
    pixels = np.full_like(FULL, 240) if blank else FULL
    path = write_pages(
        tmp_path / "a.tiff", [(pixels, {})], compression=compression, extratags=[(274, 3, 1, turn, True)]
    )
    with pytest.raises(SlideError, match=rf"a\.tiff: its orientation tag \({turn}\)"):
        open_slide(path)
    upright = [(274, 3, 1, 1, True)]
    with open_slide(write_pages(path, [(pixels, {})], compression=compression, extratags=upright)) as slide:
        assert tuple(level.size for level in slide.levels) == ((WIDTH, HEIGHT),)


def next_page(content: bytes, offset: int) -> int:
    """Where the page at `offset` names the next one."""
    return offset + 2 + 12 * int(struct.unpack_from("<H", content, offset)[0])


@pytest.mark.parametrize("options", [{}, STRIPS], ids=["tiles", "strips"])
@pytest.mark.parametrize(("last", "target"), [(0, 0), (2, 0), (2, 1)])
def test_pages_that_lead_back_to_an_earlier_one_are_damage(
    tmp_path: Path, options: dict[str, Any], last: int, target: int
) -> None:
    path = write_pages(tmp_path / "a.tiff", [(FULL, {}), (HALF, REDUCED), (QUARTER, REDUCED)], **options)
    with tifffile.TiffFile(path) as file:
        offsets = [page.offset for page in file.pages]
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, next_page(content, offsets[last]), offsets[target])
    path.write_bytes(content)
    with pytest.raises(SlideError, match=rf"a\.tiff: damaged \(its page {last + 2} is an earlier one again"):
        open_slide(path)


def test_a_page_below_itself_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    with tifffile.TiffWriter(path) as file:
        file.write(FULL, photometric="rgb", subifds=1, metadata=None)
        file.write(HALF, photometric="rgb", metadata=None)
    with tifffile.TiffFile(path) as file:
        first, place = file.pages.first.offset, file.pages.first.tags[330].valueoffset
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, place, first)
    path.write_bytes(content)
    with pytest.raises(SlideError, match=r"a\.tiff: damaged \(its page 2 is an earlier one again"):
        open_slide(path, 0.5)


def test_more_pages_than_any_slide_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_pages, "MOST_PAGES", 2)
    for options in ({}, STRIPS):
        path = write_pages(tmp_path / "a.tiff", [(FULL, {}), (HALF, REDUCED), (QUARTER, REDUCED)], **options)
        with pytest.raises(SlideError, match=r"a\.tiff: holds more than 2 pages; save the one"):
            open_slide(path)


GREY = np.ascontiguousarray(FULL[..., 1])
HOT = FULL.astype(np.uint16) * 128
HOT[5, 5] = HOT[405, 505] = 65_535
SAMPLES: dict[str, tuple[np.ndarray, dict[str, Any], str]] = {
    "grey": (GREY, {"photometric": "minisblack"}, "holds no colour picture .photometric minisblack, 1 sample"),
    "grey, white is 0": (GREY, {"photometric": "miniswhite"}, "holds no colour picture"),
    "grey of 16 bits": (GREY.astype(np.uint16) * 257, {"photometric": "minisblack"}, "holds no colour picture"),
    "channels of fluorescence": (
        np.dstack([FULL, GREY]),
        {"photometric": "minisblack", "planarconfig": "contig"},
        "holds no colour picture .photometric minisblack, 4 samples",
    ),
    "five channels": (np.dstack([FULL, GREY, GREY]), {"extrasamples": ["unspecified"] * 2}, "5 samples a pixel"),
    "12 bits in 16": (FULL.astype(np.uint16) * 16, {}, "16-bit samples fill 12 bits, so it would look black"),
    "15 bits in 16, a pixel too bright": (HOT, {}, "16-bit samples fill 15 bits, so it would look black"),
    "15 bits in 16, transparent": (
        np.dstack([FULL.astype(np.uint16) * 128, np.full_like(FULL[..., 0], 65_535, np.uint16)]),
        {"extrasamples": ["unassalpha"]},
        "16-bit samples fill 15 bits",
    ),
    "signed": (FULL.astype(np.int16), {}, "samples of int16 have no agreed range"),
    "32 bits": (FULL.astype(np.uint32) << 24, {}, "samples of uint32"),
    "float": ((FULL / 255).astype(np.float32), {}, "samples of float32"),
}


@pytest.mark.parametrize("case", SAMPLES)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_samples_that_would_be_misread_are_refused(tmp_path: Path, case: str, compression: str | None) -> None:
    samples, options, says = SAMPLES[case]
    path = write_pages(tmp_path / "a.tiff", [(samples, options)], compression=compression)
    with pytest.raises(SlideError, match=rf"a\.tiff: .*{says}"):
        open_slide(path)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("fourth", [GREY // 4 + 190, GREY * 0], ids=["grey", "zero"])
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("stated", [True, False])
def test_a_fourth_sample_of_unknown_meaning_is_refused(
    tmp_path: Path, compression: str | None, fourth: Pixels, level: int, stated: bool
) -> None:
    """OpenSlide takes it for transparency by which the colours are multiplied already."""
    pages: Pages = [(FULL, {}), (HALF, REDUCED)]
    step = level + 1
    samples = np.dstack([FULL, fourth])[::step, ::step]
    pages[level] = np.ascontiguousarray(samples), {**pages[level][1], "extrasamples": ["unspecified"]}
    path = write_pages(tmp_path / "a.tiff", pages, compression=compression)
    if not stated:
        with tifffile.TiffFile(path) as file:
            tag = file.pages[level].tags[338]
        content = bytearray(path.read_bytes())
        struct.pack_into("<H", content, tag.offset, 65_338)  # one that nobody knows
        path.write_bytes(content)
    with pytest.raises(SlideError, match=r"a\.tiff: does not say what its fourth sample is; save it as RGB"):
        open_slide(path)


def test_planes_of_16_bits_are_judged_by_their_colours(tmp_path: Path) -> None:
    samples = np.dstack([FULL.astype(np.uint16) * 16, np.random.default_rng(0).integers(0, 65_536, FULL.shape[:2])])
    planes = np.ascontiguousarray(samples.transpose(2, 0, 1)).astype(np.uint16)
    options = {"planarconfig": "separate", "extrasamples": ["unassalpha"], "compression": "zlib"}
    path = write_pages(tmp_path / "a.tiff", [(planes, options)])
    with pytest.raises(SlideError, match=r"a\.tiff: its 16-bit samples fill 12 bits"):
        open_slide(path)


def test_samples_that_fill_16_bits_are_read(tmp_path: Path) -> None:
    with open_slide(write_pages(tmp_path / "a.tiff", [(FULL.astype(np.uint16) * 257, {})])) as slide:
        assert np.array_equal(slide.read_level(0, (0, 0), (WIDTH, HEIGHT)), FULL)
