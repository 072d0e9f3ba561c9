"""The pictures of a TIFF file: whether what OpenSlide takes for the slide is the slide, and seen as it is meant.

OpenSlide takes the first page of a plain TIFF and what is marked as a reduced copy, whatever else the file holds,
and gives the resolution of the first page to all.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glassrt.engine.errors import SlideError
from glassrt.engine.geometry.boxes import Size
from glassrt.engine.slides.pictures.colours import UPRIGHT

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # else its warnings stand beside our one line

RELATED_SHARE = 0.25  # of the biggest picture's pixels; labels, overviews and thumbnails have fewer
MOST_NAMED = 4
MOST_PAGES = 4096  # of a file; all are held at once
SIDE_ROUNDING = 2  # pixels by which the sides of a smaller copy may be off


def list_pages(path: Path, file: Any, below: bool = False) -> list[Any]:
    """The pages of an open file, each followed by the ones `below` it where those are wanted.

    SlideError where a page comes twice, as where one names an earlier one as the next, which never ends.
    """
    pages: list[Any] = []
    offsets: set[int] = set()
    for top in file.pages:
        for page in (top, *((top.pages or ()) if below else ())):
            if page.offset in offsets:
                raise SlideError(f"{path}: damaged (its page {len(pages) + 1} is an earlier one again); copy it again")
            if len(pages) == MOST_PAGES:
                raise SlideError(
                    f"{path}: holds more than {MOST_PAGES} pages; save the one to score as a file of its own"
                )
            offsets.add(page.offset)
            pages.append(page)
    return pages


def check_pictures(path: Path, vendor: str, pages: Sequence[Any], size: Size) -> Any:
    """The page of the slide; SlideError where the picture of `size` that OpenSlide shows is not the one in the file.

    That is: where the file holds several (focal planes, one page a colour, a series of scans, a thumbnail that stands
    first), or where the picture is turned or mirrored.
    """
    shown = [(number, page) for number, page in enumerate(pages, 1) if not page.is_mask]
    if vendor == "aperio":  # whose strips are label, overview and thumbnail
        shown = [(number, page) for number, page in shown if page.is_tiled]
    biggest = max((size_of(page) for _, page in shown), key=lambda each: each[0] * each[1])
    alike = [(number, page) for number, page in shown if size_of(page) == biggest]
    if len(alike) > 1 or alike[0][1].imagedepth > 1:
        raise SlideError(
            f"{path}: holds {max(len(alike), alike[0][1].imagedepth)} pictures of {biggest[0]} x {biggest[1]} pixels "
            "(focal planes, single colours or several scans); save the one to score as a file of its own"
        )
    number, page = alike[0]
    others = [(other, each) for other, each in shown if other != number and rivals(each, page)]
    if others or number != shown[0][0] or size != biggest:
        listed = dict.fromkeys([shown[0], (number, page), *others])
        names = [f"page {other} of {each.imagewidth} x {each.imagelength}" for other, each in listed]
        named = ", ".join(names[:MOST_NAMED]) + (" and more" if len(names) > MOST_NAMED else "")
        raise SlideError(f"{path}: holds several pictures ({named}); save the one to score as a file of its own")
    if turned := [each for each in (page, *pages) if each.is_tiled and orientation(each) != UPRIGHT]:
        raise SlideError(
            f"{path}: its orientation tag ({orientation(turned[0])}) says that the picture is turned or mirrored, "
            "which viewers show in different ways; save it upright"
        )
    return page


def size_of(page: Any) -> Size:
    """Width and height of a page's picture."""
    return page.imagewidth, page.imagelength


def orientation(page: Any) -> int:
    """The orientation tag: 1 is upright, which is meant where there is none."""
    return int(page.tags.valueof(274, UPRIGHT))


def rivals(page: Any, biggest: Any) -> bool:
    """Whether a page is about as large as the biggest picture without being a smaller copy of it."""
    if page.is_reduced or page.imagewidth * page.imagelength < RELATED_SHARE * biggest.imagewidth * biggest.imagelength:
        return False
    width = page.imagelength * biggest.imagewidth / biggest.imagelength  # of a copy of this height
    return bool(abs(page.imagewidth - width) > SIDE_ROUNDING * max(1, biggest.imagewidth / biggest.imagelength))
