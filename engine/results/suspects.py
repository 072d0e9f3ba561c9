"""The most suspicious regions of scored slides."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glassrt.engine.geometry.boxes import Box
from glassrt.engine.maps.mapfile import MapFile
from glassrt.engine.maps.regions import Piece, Region, label_class, read_piece
from glassrt.engine.maps.rings import BAND_PIXELS, trace
from glassrt.engine.results.scored import Scored

LIKELY = 128  # of 255: a probability of one half, as the map rounds it
PEAK = 0.9  # of a slide's highest probability, where none is likely


@dataclass(frozen=True)
class Suspect:
    """A connected region of a slide that is likely to be of the suspected class, or most of all the slide.

    `box` holds its pixels of the map; the region's rings are in these too.
    """

    scored: Scored
    region: Region
    box: Box
    maximum_probability: float

    @property
    def order(self) -> tuple[float, float]:
        """What suspects are ranked by, the largest first."""
        return self.maximum_probability, self.region.area_um2

    @property
    def to_base(self) -> tuple[float, float]:
        """Level-0 pixels per map pixel in x and y."""
        (base_width, base_height), (width, height) = self.scored.base_size, self.scored.map_size
        return base_width / width, base_height / height

    @property
    def base_box(self) -> Box:
        """Its box in level-0 pixels of the whole slide."""
        across, down = self.to_base
        box = self.box
        return Box(round(box.left * across), round(box.top * down), round(box.right * across), round(box.bottom * down))


def suspected_class(scored: Scored) -> str:
    """The class that slides were scored for, or else the first but the background."""
    scores = scored.result.slide_scores
    return scores.of if scores else list(scored.result.classes)[1]


def rank_suspects(slides: Iterable[Scored], most: int, scratch: Path) -> list[Suspect]:
    """The `most` suspicious regions of all slides by their highest probability, then by area.

    Memory is that of one slide's largest region and of the suspects; a map at a time lies in the folder `scratch`.
    Raises UsageError for a map that cannot be read.
    """
    ranked: list[Suspect] = []
    for scored in slides:
        ranked = heapq.nlargest(most, [*ranked, *find_suspects(scored, most, scratch)], key=lambda each: each.order)
    return ranked


def find_suspects(scored: Scored, most: int, scratch: Path) -> Iterator[Suspect]:
    """The `most` suspicious regions of one slide: where the class has a probability of one half or more, or where this
    is nowhere so, the peaks of its probability.
    """
    width, height = scored.map_size
    number = list(scored.result.classes).index(suspected_class(scored))
    with MapFile(scratch / "suspects.raw", 2, height, width) as map_file:
        mark_likely(scored, number, map_file)
        pieces = label_class(map_file, 1, max(1, BAND_PIXELS // width))
        measured = ((highest(map_file, piece), piece.pixels, piece) for piece in pieces)
        for maximum, _, piece in heapq.nlargest(most, measured, key=lambda each: each[:2]):
            rings = tuple(np.add(ring, (piece.left, piece.top)) for ring in trace(read_piece(map_file, piece)))
            area, mean = piece.pixels * scored.result.map["mpp"] ** 2, piece.probability_sum / (255 * piece.pixels)
            box = Box(piece.left, piece.top, piece.right, piece.bottom)
            yield Suspect(scored, Region(number, area, mean, rings), box, maximum / 255)


def mark_likely(scored: Scored, number: int, map_file: MapFile) -> None:
    """Fill plane 1 with the probability of class `number`, plane 0 with 1 where it is likely or a peak."""
    peak = 0
    for top, rows in scored.read_plane(number):
        peak = max(peak, int(rows.max()))
        map_file.write_rows(top, np.stack([(rows >= LIKELY).astype(np.uint8), rows]))
    if 0 < peak < LIKELY:
        for top, rows in scored.read_plane(number):
            map_file.write_rows(top, np.stack([(rows >= PEAK * peak).astype(np.uint8), rows]))


def highest(map_file: MapFile, piece: Piece) -> int:
    """The highest probability within a region, in 255ths."""
    inside = read_piece(map_file, piece)[1:-1, 1:-1]
    return int(map_file.read(1, piece.top, piece.bottom, piece.left, piece.right)[inside].max())
