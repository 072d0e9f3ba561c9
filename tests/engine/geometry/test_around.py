"""Surroundings that fine windows share: where they lie, whose they are, and where in them a fine window is."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from glassrt.engine.geometry.plan import InputSpec, Layer, Plan, lattice_step, lay_around, lay_at, plan

SCALES = (0.5, 1.0, 1.7)


def random_plan(seed: int) -> tuple[Plan, int]:
    """A plan of any size, factor and windows, and the step of its lattice."""
    random = np.random.default_rng(seed)
    while True:
        side, wide = random.integers(16, 200, 2).tolist()
        factor = float(random.choice([1.1, 1.5, 2, 3, 4, 7.3, 16, 40]))
        if (step := lattice_step(wide, side, factor)) >= 1:
            break
    stride = int(random.integers(side // 4 + 1, side + 1))
    longest = int(side * random.choice([0.5, 2, 12]))
    width, height = random.integers(1, longest + 2, 2).tolist()
    inputs = InputSpec("fine", side), InputSpec("context", wide, factor, "tile", True)
    return plan((width, height), SCALES, True, inputs, stride), step


def view_sizes(layer: Layer, windows: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.array([[view.width, view.height] for view in layer.views])[windows[:, 0]]


@pytest.mark.parametrize("seed", range(150))
def test_a_fine_window_lies_within_its_surroundings_and_these_within_the_slide(seed: int) -> None:
    laid, step = random_plan(seed)
    fine, wide = laid.layers
    windows, around, side = fine.windows, wide.windows[wide.of], wide.input.side
    assert np.array_equal(windows[:, 0], around[:, 0])
    shown, wider = view_sizes(fine, windows), view_sizes(wide, around)
    ratio = wider / shown
    first, end = np.maximum(windows[:, 1:], 0), np.minimum(windows[:, 1:] + laid.window, shown)
    assert (around[:, 1:] <= first * ratio + 1e-9).all()
    assert (end * ratio <= around[:, 1:] + side + 1e-9).all()
    large = wider >= side
    assert (around[:, 1:] >= 0)[large].all()
    assert (around[:, 1:] + side <= wider)[large].all()
    mirrored = np.array([view.flip for view in fine.views])[windows[:, 0]]
    begins = np.where(np.column_stack([mirrored, np.zeros_like(mirrored)]), wider - side, 0)
    assert (around[:, 1:] == begins)[~large].all()
    places = laid.places(np.arange(len(windows)))
    assert places.dtype == np.float32
    assert (places >= -1e-6).all()
    assert (places[large.all(axis=1)] + (laid.window * ratio / side)[large.all(axis=1)] <= 1 + 1e-6).all()
    on_lattice = (around[:, 1:] % step == 0) | (around[:, 1:] == wider - side) | ~large
    assert on_lattice.all() or (-(-laid.window * wider // shown) > math.ceil(laid.window / wide.input.factor) + 1).any()


@pytest.mark.parametrize("seed", range(40))
def test_surroundings_are_numbered_as_they_are_needed_and_each_is_there_once(seed: int) -> None:
    laid, _ = random_plan(seed)
    wide = laid.layers[1]
    assert np.array_equal(laid.fine.of, np.arange(len(laid.windows)))
    assert len(np.unique(wide.windows, axis=0)) == len(wide.windows)
    _, first = np.unique(wide.of, return_index=True)
    assert (np.diff(first) > 0).all()
    assert np.array_equal(np.unique(wide.of), np.arange(len(wide.windows)))
    assert np.array_equal(wide.cell_of, np.arange(len(wide.windows)))
    assert len(wide.parts) == len(wide.cells) == len(wide.windows)
    for box in wide.cells.values():
        assert 0 <= box.left < box.right <= wide.size[0]
        assert 0 <= box.top < box.bottom <= wide.size[1]
    assert (np.diff(laid.fine.cell_of) >= 0).all()


@pytest.mark.parametrize("factor", [1.5, 4.0, 4.3, 16.0])
@pytest.mark.parametrize("size", [(1787, 2388), (5003, 4001), (300, 9000)])
def test_at_scale_1_windows_of_the_same_surroundings_come_one_after_another(
    factor: float, size: tuple[int, int]
) -> None:
    inputs = InputSpec("fine", 320), InputSpec("context", 320, factor, "tile")
    laid = plan(size, (1.0,), False, inputs, 256)
    wide = laid.layers[1]
    assert (np.diff(wide.of) >= 0).all()
    largest = max(box.size[0] * box.size[1] for box in laid.fine.cells.values())
    assert largest <= (1.5 * 4 * 256 + 320 + 4) ** 2
    assert len(wide.windows) <= math.ceil(size[0] / factor / 40 + 1) * math.ceil(size[1] / factor / 40 + 1)


def test_the_lattice_is_as_wide_as_can_be() -> None:
    """Of windows of 320 pixels shown in 80 of 320, each 239 begin anew; the last ends at the border."""
    inputs = InputSpec("fine", 320), InputSpec("context", 320, 4.0, "tile", True)
    laid = plan((4000, 1280), (1.0,), False, inputs, 256)
    wide = laid.layers[1]
    assert wide.windows.tolist() == [[0, 0, 0], [0, 239, 0], [0, 478, 0], [0, 680, 0]]
    row = laid.windows[:, 2] == 0
    assert laid.windows[row, 1].tolist() == [*range(0, 3680, 256), 3680]
    tiles = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    assert wide.of[row].tolist()[:15] == tiles[:15]
    places = laid.places(np.flatnonzero(row))
    assert np.array_equal(places[:4], np.array([[0, 0], [0.2, 0], [0.4, 0], [0.6, 0]], np.float32))
    assert places[-1].tolist() == [0.75, 0]
    assert laid.places(np.flatnonzero(laid.windows[:, 2] == 960))[0].tolist() == [0, 0.75]


def test_a_mirrored_window_lies_mirrored_in_its_surroundings() -> None:
    inputs = InputSpec("fine", 64), InputSpec("context", 64, 4.0, "tile", True)
    laid = plan((901, 500), (1.0,), True, inputs, 48)
    places = laid.places(np.arange(len(laid.windows)))
    at = {tuple(window): place for window, place in zip(laid.windows.tolist(), places.tolist(), strict=True)}
    alike = 0
    for (view, x, y), place in at.items():
        if view == 1 and (0, x, y) in at:
            alike += 1
            extent = 64 * laid.layers[1].views[0].width / 901 / 64
            assert place == pytest.approx([1 - extent - at[0, x, y][0], at[0, x, y][1]], abs=1e-6)
    assert alike > 5


@pytest.mark.parametrize("anchor", ["tile", "centre"])
def test_in_an_image_smaller_than_a_window_mirrored_and_plain_are_alike(anchor: str) -> None:
    inputs = InputSpec("fine", 64), InputSpec("context", 64, 4.0, anchor, True)  # type: ignore[arg-type]
    laid = plan((40, 30), (1.0,), True, inputs, 48)
    plain, mirrored = laid.places(np.arange(2))
    assert plain == pytest.approx(mirrored, abs=1e-6)
    assert (plain == 0).all() == (anchor == "tile")


@pytest.mark.parametrize("anchor", ["tile", "centre"])
def test_any_windows_have_surroundings(anchor: str) -> None:
    """Not only those of a lattice: training draws them anywhere."""
    laid = plan((3000, 2000), (1.0, 0.5), True, (InputSpec("fine", 64),), 48)
    random = np.random.default_rng(0)
    number = np.sort(random.integers(0, 4, 300))
    shown = np.array([[view.width, view.height] for view in laid.views])[number]
    windows = np.column_stack([number, random.integers(0, shown - 64)])
    fine = Layer(laid.fine.input, laid.size, laid.views, windows, np.zeros(300, np.int64), np.arange(300))
    wide = lay_around(fine, InputSpec("context", 96, 3.0, anchor))  # type: ignore[arg-type]
    around = wide.windows[wide.of]
    ratio = view_sizes(wide, windows) / shown
    assert (around[:, 1:] <= windows[:, 1:] * ratio + 1e-9).all()
    assert ((windows[:, 1:] + 64) * ratio <= around[:, 1:] + 96 + 1e-9).all()
    assert (len(wide.windows) < 250) == (anchor == "tile")


def test_surroundings_may_begin_anywhere_and_are_moved_into_the_slide() -> None:
    laid = plan((1000, 120), (1.0,), True, (InputSpec("fine", 64),), 48)
    around = InputSpec("context", 64, 2.0, "tile", True)
    count = len(laid.windows)
    starts = np.column_stack([np.linspace(-50, 600, count).astype(np.int64), np.full(count, 3)])
    wide = lay_at(laid.fine, around, starts)
    found = wide.windows[wide.of]
    assert np.array_equal(found[:, 1], np.clip(starts[:, 0], 0, 500 - 64))
    assert (found[:, 2] == 0).all()  # 60 pixels high: it begins where the window does
    assert len(wide.windows) < count
    fine = plan((100, 300), (1.0,), True, (InputSpec("fine", 64),), 48).fine
    small = lay_at(fine, around, np.zeros((len(fine.windows), 2), np.int64))
    assert set(map(tuple, small.windows[:, :2].tolist())) == {(0, 0), (1, 50 - 64)}


def test_an_empty_plan_has_no_surroundings() -> None:
    inputs = InputSpec("fine", 320), InputSpec("context", 320, 4.0, "tile", True)
    laid = plan((4000, 2000), (1.0, 2.0), True, inputs, 256, np.zeros((10, 20), bool))
    assert len(laid.layers[1].windows) == len(laid.layers[1].of) == len(laid.windows) == 0
    assert laid.layers[1].cells == {}
    assert laid.layers[1].parts == []
    assert laid.places(np.arange(0)).shape == (0, 2)
