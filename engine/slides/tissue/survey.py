"""A slide as a whole, read once: a picture for the eye, its tissue, and samples of its stain."""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError
from glassrt.engine.geometry.boxes import bands
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.frames import place_part
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.pictures.colours import check_stain
from glassrt.engine.slides.resampling import average_blocks
from glassrt.engine.slides.slide import Overview, Pixels, Slide
from glassrt.engine.slides.tissue.glass import Glass, find_glass
from glassrt.engine.slides.tissue.masks import Mask, clean
from glassrt.engine.slides.tissue.tissue import HALO, TISSUE_MPP, Judged, judge

THUMBNAIL_SIDE = 1024
MOST_PIXELS = 2**27  # of a mask, a byte each; a slide beyond 100 x 80 mm gets larger ones
SAMPLES, SAMPLE_SIDE = 8, 64  # pieces across and down, from which glass is learned; pixels of each
COLUMNS = 1024  # judged at a time, for the memory of what is measured of them
UNSEEN = 0  # of what an overview does not show: black, which nobody takes for glass
COLOURS = 20_000  # stained pixels that are kept
# Shares by which a picture without glass is known not to be in bright field: its darkest pixels, and of the others
# those that are dim (a quarter at most of the densest stain, more than half of fluorescence) or green (inverted).
LEAST_LIGHT, MOST_DARK, MOST_DIM, MOST_GREEN = 0.005, 0.1, 0.4, 0.5
FEWEST_PIXELS = 16  # that can show that there is neither glass nor tissue
DIM, GREENER = 110, 8  # levels: of the brightest channel; of green above the others


class Survey(NamedTuple):
    """A slide as a whole.

    `thumbnail` is RGB of about 1,024 pixels, `tissue` a mask of the whole at about `mpp` micrometres per pixel, without
    margin. `colours` `[n, 3]` are pixels that look stained, `doubt` says why it looks like no bright-field picture.
    """

    thumbnail: Pixels
    tissue: Mask
    mpp: float
    glass: Glass
    colours: NDArray[np.uint8]
    doubt: str


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


def look_over(slide: Slide, readers: int) -> Survey:
    """The slide's survey, whatever it shows: from its overview where it has one, else from its levels."""
    overview = slide.overview()
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
    thumbnail = shrink_to(seen.thumbnail, THUMBNAIL_SIDE * max(frame.size) / max(whole))
    return seen._replace(
        thumbnail=place_part(thumbnail, frame, whole, UNSEEN),
        tissue=place_part(seen.tissue, frame, whole, False),
    )


def shrink_to(picture: Pixels, side: float) -> Pixels:
    """The picture with its longer side at most about `side` pixels long."""
    ratio = side / max(picture.shape[:2])
    if ratio >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * ratio)), max(1, round(picture.shape[0] * ratio)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def look_through(slide: Slide, readers: int) -> Survey:
    """The survey of a slide by its levels. A large one is read at 8 micrometres in bands, once."""
    width, height = slide.levels[0].size
    fine = slide.mpp * max(1.0, max(width, height) / THUMBNAIL_SIDE)
    if fine <= TISSUE_MPP:
        thumbnail = np.concatenate([*GridReader(slide, fine).read_strips(readers)])
        ratio = fine / TISSUE_MPP
        size = (max(1, round(thumbnail.shape[1] * ratio)), max(1, round(thumbnail.shape[0] * ratio)))
        small: Pixels = cv2.resize(thumbnail, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        surveyor = Surveyor(find_glass([small]), size)
        surveyor.add(small, 0, size[1])
        return surveyor.finish(thumbnail, fine / (size[0] / thumbnail.shape[1]))
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


def overlap(strips: Iterator[Pixels], halo: int) -> Iterator[tuple[Pixels, int, int]]:
    """Each strip with up to `halo` rows of its neighbours, and the first and end row of its own."""
    before, current = None, next(strips)
    while current is not None:
        after = next(strips, None)
        parts = [part for part in (before, current, None if after is None else after[:halo]) if part is not None]
        joined = np.concatenate(parts)
        first = 0 if before is None else len(before)
        end = first + len(current)
        yield joined, first, end
        before, current = joined[max(0, end - halo) : end], after  # type: ignore[assignment]


class Shrunk:
    """A picture averaged over blocks of `side` x `side` pixels, from strips of any height."""

    def __init__(self, side: int) -> None:
        self._side = side
        self._done: list[Pixels] = []
        self._rest: list[Pixels] = []

    def add(self, strip: Pixels) -> None:
        """Add the next rows."""
        rows = np.concatenate([*self._rest, strip])
        whole = len(rows) // self._side * self._side
        if whole:
            self._done.append(average_blocks(rows[:whole], self._side, self._side))
        self._rest = [rows[whole:].copy()]

    def finish(self) -> Pixels:
        """All of it."""
        last = [average_blocks(rows, self._side, self._side) for rows in self._rest if len(rows)]
        return np.concatenate([*self._done, *last])


class Surveyor:
    """Judges a slide band by band and keeps a byte a pixel."""

    def __init__(self, glass: Glass, size: tuple[int, int]) -> None:
        self._glass = glass
        self._found = np.zeros((size[1], size[0]), np.bool_)
        self._top = self._dark = self._light = self._dim = self._green = 0
        self._step = max(1, size[0] * size[1] // COLOURS)
        self._colours: list[NDArray[np.uint8]] = []

    def add(self, pixels: Pixels, first: int, end: int) -> None:
        """Add the band of rows `first`...`end` of `pixels`; the others are its neighbours."""
        bottom = self._top + end - first
        for left, right in bands(pixels.shape[1], COLUMNS):
            start = max(0, left - HALO)
            seen = np.ascontiguousarray(pixels[:, start : right + HALO])
            judged, own = judge(seen, self._glass), np.s_[first:end, left - start : right - start]
            self._found[self._top : bottom, left:right] = judged.stained[own] | judged.grey[own]
            self._count(seen[own], judged, own)
        self._top = bottom

    def _count(self, pixels: Pixels, judged: Judged, own: tuple[slice, slice]) -> None:
        self._dark += int(judged.dark[own].sum())
        self._light += int(judged.light[own].sum())
        red, green, blue = cv2.split(pixels)
        self._dim += int((pixels.max(-1) < DIM).sum())
        self._green += int((cv2.subtract(green, cv2.max(red, blue)) > GREENER).sum())
        self._colours.append(pixels[judged.stained[own]][:: self._step])

    def finish(self, thumbnail: Pixels, mpp: float) -> Survey:
        """The survey of what was added."""
        tissue = clean(self._found, mpp)
        colours = np.concatenate(self._colours)
        return Survey(thumbnail, tissue, mpp, self._glass, colours, self._doubt())

    def _doubt(self) -> str:
        pixels = self._found.size
        scanned = pixels - self._dark
        if not scanned:
            return "all of it is black: nothing was scanned, or not in bright field"
        no_glass = self._light < LEAST_LIGHT * scanned
        dim = self._dim - self._dark > MOST_DIM * scanned
        if no_glass and (dim or (self._dark > MOST_DARK * pixels and self._green > MOST_GREEN * scanned)):
            return "dark with brighter structures, as in fluorescence or inverted: not a bright-field picture"
        if no_glass and pixels >= FEWEST_PIXELS and not self._found.any():
            return "neither glass nor tissue can be seen: not a bright-field picture"
        return ""
