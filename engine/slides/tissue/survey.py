"""A slide as a whole, read once: a picture for the eye, its tissue, and samples of its stain."""

from collections.abc import Iterator

import cv2
import numpy as np

from glassrt.engine.errors import SlideError
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.frames import place_part
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.pictures.colours import check_stain
from glassrt.engine.slides.slide import Overview, Pixels, Slide
from glassrt.engine.slides.tissue.glass import find_glass
from glassrt.engine.slides.tissue.strips import Shrunk, overlap
from glassrt.engine.slides.tissue.surveyor import Survey, Surveyor
from glassrt.engine.slides.tissue.tissue import HALO, TISSUE_MPP

THUMBNAIL_SIDE = 1024
MOST_PIXELS = 2**27  # of a mask, a byte each; a slide beyond 100 x 80 mm gets larger ones
SAMPLES, SAMPLE_SIDE = 8, 64  # pieces across and down, from which glass is learned; pixels of each
UNSEEN = 0  # of what an overview does not show: black, which nobody takes for glass


def find_tissue(slide: Slide, readers: int = 2) -> Survey:
    """The slide's survey. Raises SlideError where it is no bright-field picture."""
    survey = look_over(slide, readers)
    refuse_doubtful(survey, slide.name)
    return survey


def refuse_doubtful(survey: Survey, name: str) -> None:
    """Raise SlideError where tissue cannot be seen, which is not the same as that there is none."""
    check_stain(survey.thumbnail, name)
    if survey.doubt:
        raise SlideError(f"{name}: {survey.doubt}; if it is a stained slide all the same, pass --tissue all")


def look_over(slide: Slide, readers: int, overview: Overview | None = None) -> Survey:
    """The slide's survey, whatever it shows: from an overview that is given or that it has, else from its levels."""
    overview = overview or slide.overview()
    return look_through(slide, readers) if overview is None else look_at(overview, slide, readers)


def look_at(overview: Overview, slide: Slide, readers: int) -> Survey:
    """The survey of a slide as its overview shows it; beyond that part nothing is tissue.

    What it shows beside the slide tells of the glass alone. Raises SlideError where it shows nothing of the slide.
    """
    frame, whole = overview.frame, slide.levels[0].size
    if max(0, frame.left) >= min(frame.right, whole[0]) or max(0, frame.top) >= min(frame.bottom, whole[1]):
        raise SlideError(
            f"{slide.name}: its overview shows no part of it: x {frame.left} to {frame.right}, y {frame.top} to "
            f"{frame.bottom} of {whole[0]} x {whole[1]} pixels; state its frame in pixels of level 0"
        )
    picture = ArraySlide(overview.pixels, 1.0, slide.name)
    picture.mpp = slide.mpp * frame.size[0] / overview.pixels.shape[1]  # coarser than any scan may be
    seen = look_through(picture, readers)
    thumbnail = shrink_by(seen.thumbnail, min(1.0, max(frame.size) / max(whole)))
    return seen._replace(
        thumbnail=place_part(thumbnail, frame, whole, UNSEEN),
        tissue=place_part(seen.tissue, frame, whole, False),
    )


def look_through(slide: Slide, readers: int) -> Survey:
    """The survey of a slide by its levels. A large one is read at 8 micrometres in bands, once."""
    width, height = slide.levels[0].size
    fine = slide.mpp * max(1.0, max(width, height) / THUMBNAIL_SIDE)
    if fine <= TISSUE_MPP:
        thumbnail = np.concatenate([*GridReader(slide, fine).read_strips(readers)])
        small = shrink_by(thumbnail, fine / TISSUE_MPP)
        height, width = small.shape[:2]
        surveyor = Surveyor(find_glass([small]), (width, height))
        surveyor.add(small, 0, height)
        return surveyor.finish(thumbnail, fine / (width / thumbnail.shape[1]))
    mpp = max(TISSUE_MPP, slide.mpp, slide.mpp * (width * height / MOST_PIXELS) ** 0.5)
    grid = GridReader(slide, mpp)
    surveyor = Surveyor(find_glass([*sample(grid)]), (grid.width, grid.height))
    shrunk = Shrunk(max(1, round(max(grid.width, grid.height) / THUMBNAIL_SIDE)))
    for pixels, first, end in overlap(grid.read_strips(readers), HALO):
        surveyor.add(pixels, first, end)
        shrunk.add(pixels[first:end])
    return surveyor.finish(shrunk.finish(), mpp)


def sample(grid: GridReader) -> Iterator[Pixels]:
    """Pieces of the slide on a lattice."""
    width, height = min(SAMPLE_SIDE, grid.width), min(SAMPLE_SIDE, grid.height)
    for y in np.linspace(0, grid.height - height, SAMPLES).astype(int).tolist():
        for x in np.linspace(0, grid.width - width, SAMPLES).astype(int).tolist():
            yield grid.read(x, y, width, height)


def shrink_by(picture: Pixels, ratio: float) -> Pixels:
    """The picture with sides of `ratio`, at most 1, times its own."""
    size = (max(1, round(picture.shape[1] * ratio)), max(1, round(picture.shape[0] * ratio)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]
