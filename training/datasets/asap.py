"""Outlines that were drawn in ASAP, read from its XML as safely as `drawings` has it.

Elements are found by tag: each `Annotation(@Name, @Type, @PartOfGroup)` and its `Coordinate(@Order, @X, @Y)`, in pixels
of level 0. What has no area, such as dots and rulers, is left out. A spline is the polygon of its points, as ASAP
itself fills it.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from glassrt.engine.errors import DatasetError
from glassrt.training.datasets.drawings import SHOWN, DrawingReader, Ring, as_number, read_bounded

AREAS = ("polygon", "spline", "rectangle")  # types of annotation that have one


class Outline(NamedTuple):
    """A closed outline and the group it is in."""

    name: str
    group: str
    corners: Ring


def read_outlines(path: Path) -> list[Outline]:
    """The outlines in an XML file, as `parse_outlines`."""
    return parse_outlines(read_bounded(path), str(path))


def parse_outlines(content: bytes, name: str) -> list[Outline]:
    """The outlines in the `content` of a file called `name`; none where nothing with an area is drawn.

    Raises DatasetError, which says in a line what is wrong and in which annotation.
    """
    return Reader(name).read(content)


class Reader(DrawingReader):
    """Reads one file of ASAP."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._known = False  # whether the file is of ASAP at all
        self._count = 0  # of annotations that ended
        self._said: dict[str, str] | None = None  # of the annotation at hand; None outside of any
        self._order: list[float | None] = []
        self._outlines: list[Outline] = []

    def read(self, content: bytes) -> list[Outline]:
        """What the file's `content` says. Raises DatasetError."""
        self.parse(content)
        if not self._known:
            raise DatasetError(f"{self._name} has no element ASAP_Annotations, so it is no file of ASAP")
        return self._outlines

    @property
    def place(self) -> str:
        name = (self._said or {}).get("Name", "")[:SHOWN]
        return f"annotation {self._count + 1} ({name!r})"

    def open(self, tag: str, said: dict[str, str]) -> None:
        match tag:
            case "ASAP_Annotations":
                self._known = True
            case "Annotation":
                if self._said is not None:
                    self.refuse(f"has an annotation within {self.place}, which no drawing has")
                self.check_count(self._count)
                self._said, self._order = said, []
            case "Coordinate" if self._said is not None:
                self.add_vertex(said)
                self._order.append(as_number(said.get("Order")))

    def close(self, tag: str) -> None:
        if tag != "Annotation" or self._said is None:
            return
        corners, said = self.take_corners(), self._said
        order = [each for each in self._order if each is not None]
        if len(order) == len(corners):
            corners = corners[np.argsort(order, kind="stable")]
        if said.get("Type", "").strip().casefold() in AREAS and len(corners) >= 3:
            self._outlines.append(Outline(said.get("Name", ""), said.get("PartOfGroup", "").strip(), corners))
        self._said, self._count = None, self._count + 1
