"""The samples of a TIFF page: whether they are colours that have one right reading."""

from pathlib import Path
from typing import Any

from glassrt.engine.errors import SlideError
from glassrt.engine.slides.pictures.colours import bright_value, check_filled

COLOURS = RGB, PALETTE, YCBCR = 2, 3, 6  # photometric
INDIRECT = {5: "inks (CMYK)", 8: "CIELab", 9: "CIELab", 10: "CIELab"}  # one of many ways leads to RGB
COLOURS_A_PIXEL = 3
ASSOCIATED, SEPARATE = TRANSPARENCY = 1, 2  # kinds of transparency: colours multiplied by it, or not
UNKNOWN_SAMPLE = "does not say what its fourth sample is; save it as RGB"
SEPARATE_PLANES = 2  # planar configuration
MOST_SAMPLES = 4  # three colours and transparency


def check_samples(path: Path, page: Any) -> None:
    """Raise SlideError where a page's samples are no colours of 8 bits, or of 16 that are used, as OpenSlide takes all.

    The page's file must be open: what 16 bits hold is seen from a few tiles.
    """
    check_colours(path, page)
    if page.photometric not in COLOURS or page.samplesperpixel > MOST_SAMPLES:
        kind = page.photometric.name.lower() if hasattr(page.photometric, "name") else page.photometric
        raise SlideError(
            f"{path}: holds no colour picture (photometric {kind}, {page.samplesperpixel} samples a pixel), "
            "so no stain can be told; save it as RGB"
        )
    if page.dtype is None or page.dtype.kind != "u" or page.dtype.itemsize > 2:
        name = f"{page.bitspersample} bits" if page.dtype is None else page.dtype.name
        raise SlideError(f"{path}: samples of {name} have no agreed range of grey levels; save it with 8 bits")
    if page.dtype.itemsize == 2:
        check_filled(brightest(page), path)


def check_transparency(path: Path, page: Any) -> None:
    """Raise SlideError for a fourth sample of unknown meaning, which OpenSlide takes for transparency."""
    if page.samplesperpixel > COLOURS_A_PIXEL and kind_of_transparency(page) not in TRANSPARENCY:
        raise SlideError(f"{path}: {UNKNOWN_SAMPLE}")


def kind_of_transparency(page: Any) -> int:
    """What the sample after the colours is: 0 where the page does not say."""
    return int((page.extrasamples or (0,))[0])


def check_colours(path: Path, page: Any) -> None:
    """Raise SlideError where viewers turn a page's colours into RGB each in its own way."""
    if (kind := INDIRECT.get(int(page.photometric))) is not None:
        raise SlideError(f"{path}: holds {kind}, whose look depends on a profile; save it as RGB")


def brightest(page: Any) -> int:
    """The largest bright value of colours in the first tile, the middle one and the one with most bytes."""
    counts, file = page.databytecounts, page.parent.filehandle
    if page.planarconfig == SEPARATE_PLANES:  # transparency comes last
        counts = counts[: len(counts) * COLOURS_A_PIXEL // page.samplesperpixel]
    values = [0]
    for index in sorted({0, len(counts) // 2, counts.index(max(counts))}):
        if not counts[index]:
            continue
        file.seek(page.dataoffsets[index])
        tile = page.decode(file.read(counts[index]), index, jpegtables=page.jpegtables)[0][0]
        values.append(bright_value(tile[..., :COLOURS_A_PIXEL]))
    return max(values)
