"""Of the pictures in a TIFF file none is taken for the slide that is not the slide."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_tiffs import APERIO, Pixels, stained, write_pages

from glassrt.engine.errors import SlideError
from glassrt.engine.slide import open_slide

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
        assert slide.level_sizes == ((1000, 800), (500, 400), (250, 200))[:levels]
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
        assert slide.level_sizes == ((WIDTH, HEIGHT),)


GREY = np.ascontiguousarray(FULL[..., 1])
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


def test_samples_that_fill_16_bits_are_read(tmp_path: Path) -> None:
    with open_slide(write_pages(tmp_path / "a.tiff", [(FULL.astype(np.uint16) * 257, {})])) as slide:
        assert np.array_equal(slide.read_level(0, (0, 0), (WIDTH, HEIGHT)), FULL)
