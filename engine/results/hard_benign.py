"""The regions of benign slides that a network suspects most, as a lab looks at them next: a table, pictures, outlines.

They are what it has yet to learn, or what was overlooked when the slides were labelled.
"""

import csv
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np

from glassrt.engine.bundles.parts import ClassInfo
from glassrt.engine.errors import SlideError
from glassrt.engine.results.cells import as_text
from glassrt.engine.results.geojson import describe_region, write_features
from glassrt.engine.results.origin import RESULT
from glassrt.engine.results.overlay import write_png
from glassrt.engine.results.scored import Scored
from glassrt.engine.results.suspects import Suspect, suspected_class
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.slide import Pixels, Slide

HARD_BENIGN = "hard_benign.csv"
THUMBNAILS = "thumbnails"
COLUMNS = (
    *("slide", "rank", "x", "y", "width", "height"),
    *("area_mm2", "maximum_probability", "mean_probability"),
)
COLOR = (200, 40, 40)
SIDE = 512  # pixels of a thumbnail
AROUND = 1.5  # sides of a region to a side of its thumbnail
LEAST_UM = 250.0  # to a side of a thumbnail: cells mean little without the tissue around them

Ranked = tuple[int, Suspect]


def write_hard_benign(folder: Path, suspects: Sequence[Suspect]) -> Iterator[str]:
    """Fill the empty `folder` with what is known of suspects, the most suspicious first; yields a line on every slide
    that no thumbnails could be cut of.

    `hard_benign.csv` has a row each, in level-0 pixels as viewers count them; `STEM.geojson` the outlines of a slide's,
    as QuPath reads them; `thumbnails/RANK.png` shows each with what is around it.
    """
    with open(folder / HARD_BENIGN, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(describe_suspect(*ranked) for ranked in enumerate(suspects, start=1))
    (folder / THUMBNAILS).mkdir()
    by_slide = sorted(enumerate(suspects, start=1), key=lambda ranked: ranked[1].scored.folder.name)
    for name, group in groupby(by_slide, key=lambda ranked: ranked[1].scored.folder.name):
        ranked = list(group)
        write_features(folder / f"{name}.geojson", (outline(*each) for each in ranked))
        if note := write_thumbnails(folder / THUMBNAILS, ranked[0][1].scored, ranked):
            yield note


def describe_suspect(rank: int, suspect: Suspect) -> list[str]:
    """A row of the table."""
    box, (left, top) = suspect.base_box, suspect.scored.origin
    figures = suspect.region.area_um2 / 1e6, suspect.maximum_probability, suspect.region.mean_probability
    place = rank, box.left - left, box.top - top, *box.size
    return [as_text(suspect.scored.folder.name), *map(str, place), *(f"{figure:.6g}" for figure in figures)]


def outline(rank: int, suspect: Suspect) -> dict[str, object]:
    """A suspect as a GeoJSON feature with QuPath's properties."""
    info = ClassInfo(suspected_class(suspect.scored), COLOR)
    feature = describe_region(suspect.region, info, suspect.to_base, suspect.scored.origin, rank)
    feature["properties"]["name"] = f"suspect {rank}"
    feature["properties"]["measurements"] |= {
        "Maximum probability": round(suspect.maximum_probability, 4),
        "Rank": rank,
    }
    return feature


def write_thumbnails(folder: Path, scored: Scored, ranked: Sequence[Ranked]) -> str:
    """Write a picture of each of a slide's suspects; returns why not, if the slide cannot be read as it was scored."""
    try:
        for rank, picture in cut_thumbnails(scored, ranked):
            write_png(folder / f"{rank:04d}.png", picture)
    except SlideError as error:
        return f"no thumbnails of {scored.folder.name}: {error}"
    return ""


def cut_thumbnails(scored: Scored, ranked: Sequence[Ranked]) -> Iterator[tuple[int, Pixels]]:
    """A picture of each of a slide's suspects, by its rank. Raises SlideError."""
    path = scored.result.slide.get("path")
    if not path:
        raise SlideError(f"{scored.folder / RESULT} names no file")
    try:
        with open_slide(path, scored.result.slide["mpp"]) as slide:
            if slide.levels[0].size != scored.base_size:
                raise SlideError(f"{path} is not the slide that was scored any more")
            for rank, suspect in ranked:
                yield rank, cut_around(slide, suspect)
    except OSError as error:
        raise SlideError(f"{path}: reading it failed ({error.strerror or error})") from error


def cut_around(slide: Slide, suspect: Suspect) -> Pixels:
    """RGB of a suspect, outlined, and of what is around it: `SIDE` pixels to a side, fewer where the slide ends."""
    box = suspect.base_box
    side_um = max(AROUND * max(box.size) * slide.mpp, LEAST_UM)
    grid = GridReader(slide, max(slide.mpp, side_um / SIDE))
    scale = grid.width / grid.base_size[0], grid.height / grid.base_size[1]
    width, height = min(SIDE, grid.width), min(SIDE, grid.height)
    left = int(np.clip((box.left + box.right) / 2 * scale[0] - width / 2, 0, grid.width - width))
    top = int(np.clip((box.top + box.bottom) / 2 * scale[1] - height / 2, 0, grid.height - height))
    picture = grid.read(left, top, width, height)
    to_grid = np.multiply(suspect.to_base, scale)
    rings = [np.rint(ring * to_grid - (left, top)).astype(np.int32) for ring in suspect.region.rings]
    cv2.polylines(picture, rings, True, COLOR, 1)
    return picture
