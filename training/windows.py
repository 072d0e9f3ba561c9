"""Windows of labelled slides, drawn at random with their surroundings: cut as the engine cuts them."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError
from glassrt.engine.flow.cut import cut_windows
from glassrt.engine.geometry.boxes import Box, Indices, Size
from glassrt.engine.geometry.plan import InputSpec, Layer, Plan, lattice_step, lay_around, lay_at
from glassrt.engine.geometry.views import View
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.tasks.segmentation import COARSEST_RATIO
from glassrt.engine.watch import Clock
from glassrt.training import augment
from glassrt.training.batches import Example, Random
from glassrt.training.datasets.labelled import LabelledSlide
from glassrt.training.metrics import IGNORE

PIECE = 1 << 20  # bytes of a slide's file that it is known by
PLACE_UM = 32.0  # side of the squares that windows are drawn around

Positions = NDArray[np.float64]


class Look(NamedTuple):
    """What an example shows: `windows` windows of `window` pixels within a square of `reach` pixels, with what lies
    `around` them; surroundings of the anchor `tile` are shared by all.
    """

    window: int
    windows: int
    around: InputSpec | None
    reach: float
    colour: augment.Colour

    @property
    def shares(self) -> bool:
        """Whether all windows of an example have the same surroundings."""
        return self.around is not None and self.around.anchor == "tile"


class Ground(NamedTuple):
    """A slide at some resolution, and where on it each class is: the middles `[n, 2]` (x, y) of squares."""

    slide: LabelledSlide
    grid: GridReader
    places: tuple[Positions, ...]

    @property
    def size(self) -> Size:
        """Width and height of the grid."""
        return self.grid.width, self.grid.height


def open_ground(slide: LabelledSlide, classes: int, mpp: float) -> Ground:
    """The slide opened, for as long as the process lives, and looked over. Raises DatasetError and SlideError."""
    opened = open_slide(slide.path, slide.mpp)
    if opened.mpp > COARSEST_RATIO * mpp:
        raise DatasetError(f"{slide.path} has {opened.mpp:g} micrometres per pixel, too coarse for an mpp of {mpp:g}")
    grid = GridReader(opened, mpp)
    if min(grid.width, grid.height) * mpp < PLACE_UM:
        raise DatasetError(f"{slide.path} is smaller than {PLACE_UM:g} micrometres: no windows to learn from")
    side = PLACE_UM / mpp
    size = max(1, round(grid.width / side)), max(1, round(grid.height / side))
    coarse = slide.truth.cut(Box(0, 0, *size), size)
    step = np.array([grid.width, grid.height]) / size
    return Ground(slide, grid, tuple((np.argwhere(coarse == each)[:, ::-1] + 0.5) * step for each in range(classes)))


def digest(grounds: Sequence[Ground]) -> str:
    """The sha256 of slides and their truth, as far as they were looked over: a run belongs to those it began with."""
    content = hashlib.sha256()
    for ground in grounds:
        content.update(f"{ground.slide.name} {ground.slide.path.stat().st_size} {ground.size}".encode())
        with ground.slide.path.open("rb") as file:
            content.update(file.read(PIECE))
        for places in ground.places:
            content.update(places.tobytes())
    return content.hexdigest()


def draw_example(grounds: Sequence[Ground], look: Look, number: int, random: Random) -> Example:
    """Windows, the first of which shows the classes in turn, those after it the next ones where they are near; all are
    mirrored and turned with their surroundings.

    Inputs are `fine`, a bag, and where something lies around, `context`, one image or a bag, and where it is `placed`,
    `place`, a bag. The label `[windows, window, window]` is `IGNORE` beyond the slide.
    """
    ground, plan = lay_example(grounds, look, number, random)
    drawn = cut_windows(ground.grid, plan, np.arange(look.windows), Clock())
    turns, mirror, stain = int(random.integers(4)), bool(random.integers(2)), int(random.integers(1 << 32))
    colour = augment.COLOURS[look.colour]

    def turn(pixels: NDArray[Any]) -> NDArray[np.uint8]:
        return colour(augment.turn(pixels, turns, mirror), np.random.default_rng(stain))  # one stain for all

    inputs: dict[str, NDArray[Any]] = {"fine": np.stack([turn(each) for each in drawn["fine"]])}
    if look.around is not None:
        contexts = drawn["context"]
        inputs["context"] = turn(contexts[0]) if look.shares else np.stack([turn(each) for each in contexts])
        if look.around.placed:
            share = look.window / (look.around.side * look.around.factor)
            inputs["place"] = np.stack([augment.turn_place(each, share, turns, mirror) for each in drawn["place"]])
    masks = [cut_classes(ground, left, top, look.window) for _, left, top in plan.windows.tolist()]
    label = np.stack([augment.turn(each, turns, mirror) for each in masks]).astype(np.int64)
    return Example(inputs, label, ground.slide.name)


def lay_example(grounds: Sequence[Ground], look: Look, number: int, random: Random) -> tuple[Ground, Plan]:
    """A slide and the windows of an example on it, laid out as the engine does; surroundings that windows share begin
    anywhere where the engine's might.
    """
    present = [each for each in range(len(grounds[0].places)) if any(len(ground.places[each]) for ground in grounds)]
    ground, middle = draw_place(grounds, present[number % len(present)], random)
    start = place_window(middle, np.zeros(2), np.array(ground.size), look.window, random)
    free = look.reach - look.window
    low = np.floor(start - random.uniform(0, free, 2))
    around = look.around
    if around is not None and look.shares:
        step = lattice_step(around.side, look.window, around.factor)
        begins = np.floor(start / around.factor - random.uniform(0, step, 2)).astype(np.int64)
        shared = lay_at(lay_fine(ground.size, start[None], look.window), around, begins[None])
        low = shared.windows[0, 1:] * around.factor
    low = np.maximum(low, 0)
    high = np.minimum(low + look.reach, ground.size)
    starts = [start]
    for each in range(1, look.windows):
        places = ground.places[present[(number + each) % len(present)]]
        inside = places[((places >= low) & (places < high)).all(1)]
        middle = inside[random.integers(len(inside))] if len(inside) else random.uniform(low, np.maximum(high, low))
        starts.append(place_window(middle, low, high, look.window, random))
    fine = lay_fine(ground.size, np.stack(starts), look.window)
    if around is None:
        return ground, Plan((fine,), 0)
    if look.shares:
        return ground, Plan((fine, replace(shared, of=np.zeros(look.windows, np.int64))), 0)
    return ground, Plan((fine, lay_around(fine, around)), 0)


def draw_place(grounds: Sequence[Ground], wanted: int, random: Random) -> tuple[Ground, Positions]:
    """A slide and a place on it that shows the class `wanted`."""
    ends = np.cumsum([len(ground.places[wanted]) for ground in grounds])
    chosen = int(random.integers(ends[-1]))
    at = int(np.searchsorted(ends, chosen, side="right"))
    places = grounds[at].places[wanted]
    return grounds[at], places[chosen - ends[at] + len(places)]


def place_window(middle: Positions, low: Positions, high: Positions, window: int, random: Random) -> Indices:
    """Where a window begins that shows a place somewhere within, between two corners where there is room."""
    first = np.ceil(low)
    last = np.maximum(np.floor(high) - window, first)
    return np.clip(np.floor(middle - random.uniform(0, window, 2)), first, last).astype(np.int64)


def lay_fine(size: Size, starts: Indices, window: int) -> Layer:
    """Windows of a grid of `size` that begin at `starts` `[n, 2]`."""
    numbers = np.arange(len(starts))
    windows = np.column_stack([0 * numbers, starts])
    return Layer(InputSpec("fine", window), size, (View(1.0, False, *size, (), ()),), windows, numbers, numbers)


def cut_classes(ground: Ground, left: int, top: int, side: int) -> NDArray[np.uint8]:
    """The classes of a square of the grid, `IGNORE` beyond the slide."""
    inside = Box(left, top, min(left + side, ground.size[0]), min(top + side, ground.size[1]))
    width, height = inside.size
    classes = np.full((side, side), IGNORE, np.uint8)
    classes[:height, :width] = ground.slide.truth.cut(inside, ground.size)
    return classes
