"""How well tissue is told from glass and ink, stain by stain, and stains from haematoxylin and eosin."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from glassrt.benchmarks.stains import MARKS, STAINS, WHITE, Picture, mark_picture, read_tissue, shrink, stained
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.pictures.images import read_image
from glassrt.engine.slides.tissue.stain import MOST_BEYOND, share_beyond
from glassrt.engine.slides.tissue.survey import look_over
from glassrt.engine.slides.tissue.surveyor import Survey
from glassrt.engine.slides.tissue.tissue import TISSUE_MPP

AS_SCANNED = "as scanned"
LARGE_SETS = ("CAMELYON", "demo slide")  # pictures with glass around the tissue
STROKES_UM = ((400, 4), (400, 24), (250, 12), (800, 80))  # width, and how soft the edge is
GLASS_SIDE = 300
TILE_MPP = 4.0  # of the tiles without tissue


class Tally:
    """Counts of one row: pixels of tissue and those missed, of glass or ink and those taken; pictures that warn."""

    def __init__(self) -> None:
        self.tissue = self.missed = self.nothing = self.taken = self.pictures = self.foreign = 0

    def add(self, picture: Picture, survey: Survey) -> None:
        """Count one picture."""
        self.tissue += int(picture.tissue.sum())
        self.missed += int((picture.tissue & ~survey.tissue).sum())
        self.nothing += int(picture.nothing.sum())
        self.taken += int((picture.nothing & survey.tissue).sum())
        beyond = share_beyond(survey.colours, survey.glass)
        self.pictures += 1
        self.foreign += beyond is not None and beyond > MOST_BEYOND

    def row(self, stain: str, what: str) -> dict[str, Any]:
        """The figures, in percent; None where there was nothing to judge."""
        return {
            "stain": stain,
            "pictures of": what,
            "pictures": self.pictures,
            "tissue_missed_percent": 100 * self.missed / self.tissue if self.tissue else None,
            "nothing_taken_percent": 100 * self.taken / self.nothing if self.nothing else None,
            "unlike_percent": 100 * self.foreign / self.pictures,
        }


def measure_tissue(data: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """Both kinds of error of the tissue mask on real pictures, as scanned and in made stains, and with pens."""
    stains: dict[tuple[str, str], Tally] = defaultdict(Tally)
    marks: dict[str, Tally] = defaultdict(Tally)
    for name, pixels, mpp in read_tissue(data):
        progress(name)
        for stain, vectors in {AS_SCANNED: None, **STAINS}.items():
            picture = stained(pixels, mpp, vectors)
            stains[stain, name].add(picture, look(picture))
            if name in LARGE_SETS and vectors in (None, STAINS["Masson trichrome"]):
                for mark, inked in each_mark(picture):
                    marks[f"{mark} on tissue"].add(inked, look(inked))
    for name, picture in read_empty(data):
        stains[AS_SCANNED, name].add(picture, look(picture))
    for mark, inked in each_mark(empty(np.full((GLASS_SIDE, GLASS_SIDE, 3), WHITE, np.uint8))):
        marks[f"{mark} on glass"].add(inked, look(inked))
    rows = [tally.row(stain, name) for (stain, name), tally in stains.items()]
    return {"stains": rows, "marks": [tally.row("", mark) for mark, tally in marks.items()]}


def look(picture: Picture) -> Survey:
    """What the engine finds in a picture."""
    return look_over(ArraySlide(picture.pixels, TISSUE_MPP), 1)


def empty(pixels: Any) -> Picture:
    """A picture of glass and marks alone."""
    nothing = np.ones(pixels.shape[:2], np.bool_)
    return Picture(pixels, ~nothing, nothing)


def read_empty(data: Path) -> Iterator[tuple[str, Picture]]:
    """Real tiles without tissue: glass, dust, lines, and ink."""
    for path in sorted((data / "slides" / "tissue").glob("*.png")):
        if path.name.startswith(("no-tissue", "almost-white")):
            yield "real pen" if "pen" in path.name else "real glass", empty(shrink(read_image(path), TILE_MPP))


def each_mark(picture: Picture) -> Iterator[tuple[str, Picture]]:
    """The picture under strokes of every pen."""
    for mark, ink in MARKS.items():
        for width, soft in STROKES_UM:
            yield mark, mark_picture(picture, ink, width, soft)
