"""Windows that will not come."""

from dataclasses import replace

import numpy as np
import pytest

from glassrt.engine.geometry.plan import InputSpec, Plan, plan
from glassrt.engine.maps.canvas import Canvas, Tile

SIZE = (1200, 1600)


def compose(laid: Plan, logits: np.ndarray, missing: np.ndarray, late: bool = False) -> tuple[np.ndarray, list[int]]:
    """The map's probability of class 1, NaN where not analysed, and the tops of the tiles as they came."""
    result, tops = np.full(SIZE[::-1], np.nan, np.float32), []

    def place(tile: Tile) -> None:
        height, width = tile.analysed.shape
        result[tile.top : tile.top + height, tile.left : tile.left + width] = np.where(
            tile.analysed, tile.probabilities[1], np.nan
        )
        tops.append(tile.top)

    canvas = Canvas(laid, 16, SIZE, place)
    if not late:
        canvas.drop(missing)
    for index in np.setdiff1d(np.arange(len(logits)), missing).tolist():
        canvas.add(np.array([index]), {"logits": logits[index][None]})
    if late:
        canvas.drop(missing)
    canvas.finish()
    return result, tops


def draw_logits(laid: Plan) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(len(laid.windows), 2, 20, 20)).astype(np.float32)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (0.75, 1.0)])
def test_a_map_goes_without_windows_that_do_not_come(scales: tuple[float, ...], late: bool) -> None:
    """As had they never been planned."""
    laid = plan(SIZE, scales, True, (InputSpec("image", 320),), 256)
    boxes, logits = laid.fine.boxes(laid.windows), draw_logits(laid)
    hole = (boxes[:, 0] < 700) & (boxes[:, 1] > 600)
    found, tops = compose(laid, logits, np.flatnonzero(hole), late)
    fine = replace(laid.fine, windows=laid.windows[~hole], cell_of=laid.fine.cell_of[~hole])
    wanted, _ = compose(Plan((fine,), 0), logits[~hole], np.zeros(0, np.int64))
    assert np.array_equal(found, wanted, equal_nan=True)
    assert np.isnan(found).any()
    assert not np.isnan(found).all()
    assert tops == sorted(tops)


def test_a_map_of_which_nothing_comes_is_finished() -> None:
    laid = plan(SIZE, (1.0,), False, (InputSpec("image", 320),), 256)
    found, tops = compose(laid, draw_logits(laid), np.arange(len(laid.windows)), late=True)
    assert np.isnan(found).all()
    assert tops == []


def test_a_window_that_neither_came_nor_was_dropped_is_told() -> None:
    laid = plan(SIZE, (1.0,), False, (InputSpec("image", 320),), 256)
    canvas = Canvas(laid, 16, SIZE, lambda tile: None)
    canvas.drop(np.arange(len(laid.windows) - 1))
    with pytest.raises(AssertionError, match="never"):
        canvas.finish()
