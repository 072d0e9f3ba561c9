"""Regions that were drawn in Aperio ImageScope, read from its XML as safely as `drawings` has it.

Elements are found by tag: `Annotations@MicronsPerPixel`, and in each `Region(@Text, @Type, @NegativeROA)` its first
`Attribute@Value` and every `Vertex(@X, @Y)`, in pixels of level 0.
"""

from pathlib import Path
from typing import NamedTuple

from glassrt.engine.errors import DatasetError
from glassrt.training.datasets.drawings import DrawingReader, Ring, as_number, read_bounded

ELLIPSE = "2"  # the type of region whose vertices are the corners of the box around it


class Region(NamedTuple):
    """A closed outline and what it is called. `place` tells people which one of the file it is.

    What is `negative` is cut out of the regions drawn before.
    """

    place: str
    label: str
    corners: Ring
    negative: bool


class Drawing(NamedTuple):
    """All regions of a slide in the order they were drawn, and the micrometres per pixel; None where not said."""

    regions: tuple[Region, ...]
    mpp: float | None


def read_drawing(path: Path) -> Drawing:
    """The regions in an XML file. Raises DatasetError, which says in a line what is wrong and in which region."""
    return Reader(path).read(read_bounded(path))


class Reader(DrawingReader):
    """Reads one file of ImageScope."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._mpp: float | None = None
        self._known = False  # whether the file is of ImageScope at all
        self._regions: list[Region] = []
        self._text: str | None = None  # of the region at hand; None outside of regions
        self._negative = False
        self._value: str | None = None

    def read(self, content: bytes) -> Drawing:
        """What the file's `content` says. Raises DatasetError."""
        self.parse(content)
        if not self._known:
            raise DatasetError(f"{self._name} has no element Annotations, so it is no file of Aperio ImageScope")
        if not self._regions:
            raise DatasetError(f"{self._name} marks no region; unpack the set again")
        return Drawing(tuple(self._regions), self._mpp)

    @property
    def place(self) -> str:
        return f"region {len(self._regions) + 1}"

    def open(self, tag: str, said: dict[str, str]) -> None:
        match tag:
            case "Annotations":
                self._known = True
                self._mpp = as_number(said.get("MicronsPerPixel"))
            case "Region":
                self._open_region(said)
            case "Attribute" if self._text is not None and self._value is None:
                self._value = said.get("Value", "")
            case "Vertex" if self._text is not None:
                self.add_vertex(said)

    def close(self, tag: str) -> None:
        if tag == "Region":
            self._close_region()

    def _open_region(self, said: dict[str, str]) -> None:
        if self._text is not None:
            self.refuse(f"has a region within {self.place}, which no drawing has")
        self.check_count(len(self._regions))
        if said.get("Type", "").strip() == ELLIPSE:
            self.refuse(f"has an ellipse as {self.place}, of which it tells the box alone: draw it as an outline")
        self._text, self._value = said.get("Text", ""), None
        self._negative = said.get("NegativeROA", "").strip() == "1"

    def _close_region(self) -> None:
        corners = self.take_corners()
        if len(corners) < 3:
            self.refuse(f"has {len(corners)} vertices in {self.place}, an area needs at least 3")
        label = (self._value or "").strip() or (self._text or "").strip()
        self._regions.append(Region(self.place, label, corners, self._negative))
        self._text = None
