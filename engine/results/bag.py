"""What a slide is as a bag of tiles: its class, the tiles that decide it, and pictures of both."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.kinds.mil import Mil, beside_background
from glassrt.engine.flow.bag import BagMean
from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.geometry.plan import Plan
from glassrt.engine.results.overlay import tint_heat, write_text

TOP = 16  # tiles on the contact sheet and in result.json
COLUMNS = 4
SHOWN = 192  # pixels of a tile's side on the sheet
CAPTION = 22

Floats = NDArray[np.float32]


class TopTile(msgspec.Struct, frozen=True):
    """A tile that decides: its upper left corner, of slides in pixels of level 0, its share of the bag's attention, and
    the probability of each class but the background that it has on its own.
    """

    x: float
    y: float
    attention: float
    probabilities: dict[str, float]


class BagResult(msgspec.Struct, frozen=True):
    """A slide as one bag: the probability of every class, and those of its `tiles` with most attention, the first
    first. `effective_tiles` is how many tiles would have this attention in equal shares: 1 over the sum of its squares.
    """

    probabilities: dict[str, float]
    tiles: int
    effective_tiles: float
    top: tuple[TopTile, ...]


class Bag(NamedTuple):
    """Of N tiles their attention `[N]`, which sums to 1, the probabilities of all classes of each `[N, C]`, and those
    of the bag `[C]`.
    """

    attention: Floats
    tiles: Floats
    whole: NDArray[np.float64]

    def order(self, number: int) -> Indices:
        """The tiles by attention, those with the same by their probability of a class, the highest first."""
        return np.lexsort((-self.tiles[:, number], -self.attention))


def close_bag(mean: BagMean, scores: Floats, logits: Floats) -> Bag:
    """The bag of all tiles that were added, whose scores `[N]` and logits `[N, 1 or C]` are given again."""
    return Bag(mean.weigh(scores), softmax(logits).astype(np.float32), softmax(mean.mean()))


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities `[..., C]` of logits `[..., C]`, or `[..., 1]` of the second of two classes."""
    every = beside_background(logits.astype(np.float64))
    raised = np.exp(every - every.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = raised / raised.sum(axis=-1, keepdims=True)
    return probabilities


def describe_bag(bag: Bag, corners: NDArray[Any], manifest: Mil) -> BagResult:
    """The figures of a bag; `corners` `[N, 2]` are x and y of its tiles."""
    names = [info.name for info in manifest.classes]
    top = tuple(
        TopTile(
            corners[index, 0].item(),
            corners[index, 1].item(),
            float(bag.attention[index]),
            dict(zip(names[1:], bag.tiles[index, 1:].tolist(), strict=True)),
        )
        for index in bag.order(manifest.suspected)[:TOP].tolist()
    )
    effective = 1 / float(np.square(bag.attention, dtype=np.float64).sum())
    return BagResult(dict(zip(names, bag.whole.tolist(), strict=True)), len(corners), effective, top)


def draw_attention(thumbnail: NDArray[np.uint8], plan: Plan, stride: int, attention: Floats) -> NDArray[np.uint8]:
    """The thumbnail (RGB, of a whole slide) under the attention of each of a plan's tiles, `stride` pixels apart, as a
    share of the highest; greyer where there was none.
    """
    places = -(-np.maximum(plan.windows[:, 1:], 0) // stride)  # the last of a row begins earlier, to end with it
    columns, rows = np.maximum(1, -(-(np.array(plan.size) - plan.window) // stride) + 1).tolist()
    shares = np.zeros((rows, columns), np.uint8)
    skipped = np.ones((rows, columns), np.uint8)
    column, row = places.T
    np.maximum.at(shares, (row, column), np.rint(255 * attention / attention.max(initial=1e-30)).astype(np.uint8))
    skipped[row, column] = 0
    height, width = thumbnail.shape[:2]
    ys, xs = (
        np.minimum((np.arange(shown) + 0.5) * whole / shown / stride, cells - 1).astype(np.int64)
        for shown, whole, cells in ((height, plan.size[1], rows), (width, plan.size[0], columns))
    )
    where = np.ix_(ys, xs)
    return tint_heat(thumbnail, shares[where], skipped[where], "attention, of the highest")


def draw_sheet(pictures: Sequence[NDArray[np.uint8]], captions: Sequence[str]) -> NDArray[np.uint8]:
    """Tiles (RGB) in rows of four, each with a line below; a white sheet where there are none."""
    rows = max(1, -(-len(pictures) // COLUMNS))
    sheet = np.full((rows * (SHOWN + CAPTION), COLUMNS * SHOWN, 3), 255, np.uint8)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        top, left = number // COLUMNS * (SHOWN + CAPTION), number % COLUMNS * SHOWN
        shown = cv2.resize(picture, (SHOWN - 2, SHOWN - 2), interpolation=cv2.INTER_AREA)
        sheet[top : top + SHOWN - 2, left : left + SHOWN - 2] = shown
        write_text(sheet, caption, (left + 2, top + SHOWN + 12))
    return sheet


def caption_tiles(result: BagResult, of: str) -> list[str]:
    """A line for each of the top tiles: its rank, its attention and its probability of the class `of`."""
    return [
        f"{rank}: {tile.attention:.1%}, {of} {tile.probabilities[of]:.2f}" for rank, tile in enumerate(result.top, 1)
    ]
