"""Regions that were drawn in Aperio ImageScope, read from its XML. A file may be anybody's: nothing in it is believed.

Elements are found by tag: `Annotations@MicronsPerPixel`, and in each `Region(@Text, @Type, @NegativeROA)` its first
`Attribute@Value` and every `Vertex(@X, @Y)`, in pixels of level 0. Entities and document types, with which a small file
can be made to fill the memory or to fetch others, are refused before any is expanded.
"""

import math
import stat
from array import array
from pathlib import Path
from typing import NamedTuple, NoReturn
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError

MOST_BYTES = 2**26  # a vertex has some 40
DEEPEST = 32  # elements in each other; ImageScope writes 6
MOST_REGIONS = 10_000
MOST_VERTICES = 2**20  # of all regions
FARTHEST = 2.0**24  # level-0 pixels from the first one; no scanner's field is as large
ELLIPSE = "2"  # the type of region whose vertices are the corners of the box around it
SHOWN = 60  # characters of what a file says that are repeated

Ring = NDArray[np.float64]


class Region(NamedTuple):
    """A closed outline and what it is called. `place` tells people which one of the file it is.

    What is `negative` is cut out of the regions drawn before.
    """

    place: str
    label: str
    corners: Ring  # [n, 2], x and y of level 0
    negative: bool


class Drawing(NamedTuple):
    """All regions of a slide in the order they were drawn, and the micrometres per pixel; None where not said."""

    regions: tuple[Region, ...]
    mpp: float | None


def read_drawing(path: Path) -> Drawing:
    """The regions in an XML file. Raises DatasetError, which says in a line what is wrong and in which region."""
    return Reader(path).read(read_bounded(path))


def read_bounded(path: Path) -> bytes:
    """The bytes of a regular file that is neither empty nor larger than any that was drawn by hand."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"{path} is no regular file; unpack the set again")
        if status.st_size > MOST_BYTES:
            raise DatasetError(f"{path} has {status.st_size} bytes, no annotations have over {MOST_BYTES}")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing: every slide needs its annotations beside it") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror})") from error
    if not content.strip():
        raise DatasetError(f"{path} is empty; unpack the set again")
    return content


class Reader:
    """Reads one file, element by element."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._depth, self._vertices = 0, 0
        self._mpp: float | None = None
        self._known = False  # whether the file is of ImageScope at all
        self._regions: list[Region] = []
        self._text: str | None = None  # of the region at hand; None outside of regions
        self._negative = False
        self._value: str | None = None
        self._corners = array("d")

    def read(self, content: bytes) -> Drawing:
        """What the file's `content` says. Raises DatasetError."""
        parser = expat.ParserCreate()
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = self._refuse_declaration
        try:
            parser.Parse(content, True)
        except (expat.ExpatError, LookupError, ValueError) as error:  # the last two of encodings that nobody knows
            raise DatasetError(f"{self._path} is no sound XML ({error}); unpack the set again") from error
        if not self._known:
            raise DatasetError(f"{self._path} has no element Annotations, so it is no file of Aperio ImageScope")
        if not self._regions:
            raise DatasetError(f"{self._path} marks no region; unpack the set again")
        return Drawing(tuple(self._regions), self._mpp)

    def _refuse_declaration(self, *declared: object) -> NoReturn:
        self._refuse("declares a document type or entities, which annotations have none of; is it from a safe place?")

    def _refuse(self, what: str) -> NoReturn:
        raise DatasetError(f"{self._path} {what}")

    @property
    def _place(self) -> str:
        return f"region {len(self._regions) + 1}"

    def _start(self, tag: str, said: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            self._refuse(f"nests elements over {DEEPEST} deep, which annotations do not")
        match tag:
            case "Annotations":
                self._known = True
                self._mpp = as_number(said.get("MicronsPerPixel"))
            case "Region":
                self._open_region(said)
            case "Attribute" if self._text is not None and self._value is None:
                self._value = said.get("Value", "")
            case "Vertex" if self._text is not None:
                self._add_vertex(said)

    def _end(self, tag: str) -> None:
        self._depth -= 1
        if tag == "Region":
            self._close_region()

    def _open_region(self, said: dict[str, str]) -> None:
        if self._text is not None:
            self._refuse(f"has a region within {self._place}, which no drawing has")
        if len(self._regions) == MOST_REGIONS:
            self._refuse(f"has over {MOST_REGIONS} regions, more than anyone draws")
        if said.get("Type", "").strip() == ELLIPSE:
            self._refuse(f"has an ellipse as {self._place}, of which it tells the box alone: draw it as an outline")
        self._text, self._value, self._corners = said.get("Text", ""), None, array("d")
        self._negative = said.get("NegativeROA", "").strip() == "1"

    def _add_vertex(self, said: dict[str, str]) -> None:
        self._vertices += 1
        if self._vertices > MOST_VERTICES:
            self._refuse(f"has over {MOST_VERTICES} vertices, more than anyone draws")
        for axis in ("X", "Y"):
            value = as_number(said.get(axis))
            if value is None or abs(value) > FARTHEST:
                number, written = len(self._corners) // 2 + 1, said.get(axis, "")[:SHOWN]
                self._refuse(f"has {axis} {written!r} in {self._place}, vertex {number}: expected pixels of level 0")
            self._corners.append(value)

    def _close_region(self) -> None:
        corners = np.array(self._corners, np.float64).reshape(-1, 2)
        if len(corners) < 3:
            self._refuse(f"has {len(corners)} vertices in {self._place}, an area needs at least 3")
        label = (self._value or "").strip() or (self._text or "").strip()
        self._regions.append(Region(self._place, label, corners, self._negative))
        self._text = None


def as_number(written: str | None) -> float | None:
    """The finite number that is written; None where none is."""
    try:
        value = float(written or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
