"""What a TIFF file says of its resolution, by OME-XML, ImageJ or its tags."""

from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import tifffile

from glassrt.engine.errors import SlideError
from glassrt.engine.slides.resolution import PLAUSIBLE_MPP, check_aspect
from glassrt.engine.slides.tiff.pages import size_of

Mpp = tuple[float | None, float | None]

INCH, CENTIMETRE = 2, 3
UNITS = {INCH: 25_400.0, CENTIMETRE: 10_000.0}
MICROMETRES = {"nm": 1e-3, "mm": 1e3, "cm": 1e4, "inch": 25_400.0}
MICROMETRES |= dict.fromkeys(("\u00b5m", "\u03bcm", "\\u00B5m", "um", "micron", "microns"), 1.0)
DISAGREEMENT = 0.03  # of the sides of a pixel, beyond what rounding explains


class Stated(NamedTuple):
    """Micrometres per pixel along x and y, None where nothing is said, and why that may not be true."""

    x: float | None
    y: float | None
    doubt: str = ""


def read_stated(path: Path) -> Stated | None:
    """What the TIFF file at `path` says of its first page; None where that cannot be read.

    SlideError where it says that pixels are not square, in an unknown unit.
    """
    try:
        with tifffile.TiffFile(path) as file:
            return stated_mpp(path, file, file.pages.first)
    except SlideError:
        raise
    except Exception:  # what a damaged file leads tifffile to
        return None


def stated_mpp(path: Path, file: Any, page: Any) -> Stated:
    """What a page's file says: OME-XML or ImageJ before the page's tags, which must not say otherwise than OME-XML.

    SlideError where tags without a unit say that pixels are not square.
    """
    by_tags = stated_by_tags(page.tags)
    if file.is_ome and (by_ome := stated_by_ome(file.ome_metadata, size_of(page))) != (None, None):
        return Stated(*by_ome, contradiction(by_ome, by_tags))
    if file.is_imagej:
        unit = MICROMETRES.get(str((file.imagej_metadata or {}).get("unit", "")).strip())
        if unit:
            x, y = pixel_sides(page.tags)
            return Stated(x and unit * x, y and unit * y)
    check_unscaled(path, page.tags)
    return Stated(*by_tags)


def contradiction(by_ome: Mpp, by_tags: Mpp) -> str:
    """How OME-XML and the tags differ; nothing where the tags say what no scan has, such as a screen's resolution."""
    low, high = PLAUSIBLE_MPP
    for ome, tags in zip(by_ome, by_tags, strict=True):
        if ome and tags and low <= tags <= high and abs(ome - tags) > DISAGREEMENT * max(ome, tags):
            return f"its OME-XML says {ome:g} micrometres per pixel, its resolution tags say {tags:g}"
    return ""


def check_unscaled(path: Path, tags: Any) -> None:
    """Raise SlideError where resolution tags without a unit say that pixels are not square."""
    x, y = pixel_sides(tags)
    if int(tags.valueof(296, INCH)) not in UNITS and x and y:
        check_aspect(x, y, str(path))


def stated_by_tags(tags: Any) -> Mpp:
    """Micrometres per pixel by the resolution tags, None where they give no unit."""
    unit = UNITS.get(int(tags.valueof(296, INCH)))
    if unit is None:
        return None, None
    x, y = pixel_sides(tags)
    return x and unit * x, y and unit * y


def pixel_sides(tags: Any) -> Mpp:
    """Sides of a pixel in the unit of the resolution tags."""
    x, y = (tags.valueof(code) for code in (282, 283))
    return (x[1] / x[0] if x and all(x) else None), (y[1] / y[0] if y and all(y) else None)


def stated_by_ome(text: str, size: tuple[int, int]) -> Mpp:
    """What OME-XML says of the one image of `size`; nothing where several have it."""
    try:
        found = [each for each in ElementTree.fromstring(text).iter() if each.tag.endswith("}Pixels")]
    except ElementTree.ParseError:
        return None, None
    sized = [each for each in found if (each.get("SizeX"), each.get("SizeY")) == tuple(map(str, size))]
    if len(sized) != 1:
        return None, None

    def side(axis: str) -> float | None:
        unit = MICROMETRES.get(sized[0].get(f"PhysicalSize{axis}Unit", "µm"))
        stated = sized[0].get(f"PhysicalSize{axis}")
        return float(stated) * unit if stated and unit else None

    return side("X"), side("Y")
