"""What programs that people draw outlines in write as XML. A file may be anybody's: nothing in it is believed.

Entities and document types, with which a small file can be made to fill the memory or to fetch others, are refused
before any is expanded; so is what is larger, deeper or longer than anything that is drawn by hand.
"""

import math
import stat
from array import array
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError

MOST_BYTES = 2**26  # a vertex has some 40
DEEPEST = 32  # elements in each other; programs write 6
MOST_REGIONS = 10_000
MOST_VERTICES = 2**20  # of all regions
FARTHEST = 2.0**24  # level-0 pixels from the first one; no scanner's field is as large
SHOWN = 60  # characters of what a file says that are repeated

Ring = NDArray[np.float64]  # [n, 2], x and y of level 0


def read_bounded(path: Path) -> bytes:
    """The bytes of a regular file that is neither empty nor larger than any that was drawn by hand."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"{path} is no regular file; unpack the set again")
        check_length(status.st_size, str(path))
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing: every slide needs its annotations beside it") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror})") from error
    if not content.strip():
        raise DatasetError(f"{path} is empty; unpack the set again")
    return content


def check_length(count: int, name: str) -> None:
    """Raise DatasetError for a file of more bytes than any that was drawn by hand."""
    if count > MOST_BYTES:
        raise DatasetError(f"{name} has {count} bytes, no annotations have over {MOST_BYTES}")


class DrawingReader:
    """Reads one file, called `name` in messages, element by element: `open` and `close` are given each.

    Whoever inherits says what its elements mean and counts regions; vertices are added to the region at hand.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._depth, self._vertices = 0, 0
        self._corners = array("d")  # of the region at hand

    def parse(self, content: bytes) -> None:
        """Go through the file's `content`. Raises DatasetError."""
        parser = expat.ParserCreate()
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = self._refuse_declaration
        try:
            parser.Parse(content, True)
        except (expat.ExpatError, LookupError, ValueError) as error:  # the last two of encodings that nobody knows
            raise DatasetError(f"{self._name} is no sound XML ({error}); unpack the set again") from error

    def open(self, tag: str, said: dict[str, str]) -> None:
        """An element begins, with its attributes."""
        raise NotImplementedError

    def close(self, tag: str) -> None:
        """An element ends."""
        raise NotImplementedError

    @property
    def place(self) -> str:
        """Tells people which region is at hand."""
        raise NotImplementedError

    def refuse(self, what: str) -> NoReturn:
        """Raise DatasetError: the file does what it may not."""
        raise DatasetError(f"{self._name} {what}")

    def check_count(self, regions: int) -> None:
        """Refuse one more region than anyone draws."""
        if regions == MOST_REGIONS:
            self.refuse(f"has over {MOST_REGIONS} regions, more than anyone draws")

    def add_vertex(self, said: dict[str, str]) -> None:
        """Take a corner from the attributes X and Y, in pixels of level 0."""
        self._vertices += 1
        if self._vertices > MOST_VERTICES:
            self.refuse(f"has over {MOST_VERTICES} vertices, more than anyone draws")
        for axis in ("X", "Y"):
            value = as_number(said.get(axis))
            if value is None or abs(value) > FARTHEST:
                number, written = len(self._corners) // 2 + 1, said.get(axis, "")[:SHOWN]
                self.refuse(f"has {axis} {written!r} in {self.place}, vertex {number}: expected pixels of level 0")
            self._corners.append(value)

    def take_corners(self) -> Ring:
        """The corners of the region at hand, which is done with them."""
        corners = np.array(self._corners, np.float64).reshape(-1, 2)
        self._corners = array("d")
        return corners

    def _refuse_declaration(self, *declared: object) -> NoReturn:
        self.refuse("declares a document type or entities, which annotations have none of; is it from a safe place?")

    def _start(self, tag: str, said: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            self.refuse(f"nests elements over {DEEPEST} deep, which annotations do not")
        self.open(tag, said)

    def _end(self, tag: str) -> None:
        self._depth -= 1
        self.close(tag)


def as_number(written: str | None) -> float | None:
    """The finite number that is written; None where none is."""
    try:
        value = float(written or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
