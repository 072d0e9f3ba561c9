import numpy as np
import pytest

from glassrt.engine.geometry.plan import InputSpec, plan
from glassrt.engine.geometry.sampling import Sampling
from glassrt.engine.geometry.views import round_half_up, window_starts

IMAGE = (InputSpec("image", 320),)


@pytest.mark.parametrize(
    ("length", "starts"),
    [
        (1, (0,)),
        (320, (0,)),
        (321, (0, 1)),
        (576, (0, 256)),
        (577, (0, 256, 257)),
        (1000, (0, 256, 512, 680)),
    ],
)
def test_the_last_window_is_shifted_back_to_end_at_the_border(length: int, starts: tuple[int, ...]) -> None:
    assert window_starts(length, 320, 256) == starts


@pytest.mark.parametrize(("value", "rounded"), [(0.49, 0), (0.5, 1), (1.5, 2), (2.5, 3), (581.25, 581)])
def test_halves_are_rounded_up(value: float, rounded: int) -> None:
    assert round_half_up(value) == rounded


@pytest.mark.parametrize("size", [(1, 1), (100, 700), (320, 320), (1787, 2388), (5000, 333)])
@pytest.mark.parametrize("flips", [False, True])
def test_every_pixel_of_every_view_is_covered_and_no_window_stands_twice(size: tuple[int, int], flips: bool) -> None:
    planned = plan(size, (0.75, 1, 2), flips, IMAGE, 256)
    assert len({tuple(window) for window in planned.windows.tolist()}) == len(planned.windows)
    for index, view in enumerate(planned.views):
        covered = np.zeros((view.height, view.width), bool)
        for _, x, y in planned.windows[planned.windows[:, 0] == index].tolist():
            covered[max(y, 0) : y + 320, max(x, 0) : x + 320] = True
        assert covered.all()


def test_each_cell_and_part_holds_all_pixels_of_its_windows() -> None:
    planned = plan((1787, 2388), (0.75, 1, 2.5), True, IMAGE, 256)
    for index, (view_index, x, y) in enumerate(planned.windows.tolist()):
        view, cell = planned.views[view_index], planned.fine.cells[int(planned.fine.cell_of[index])]
        box = planned.fine.parts[int(planned.fine.part_of[index])].box
        assert box.left <= max(x, 0)
        assert box.top <= max(y, 0)
        assert min(x + 320, view.width) <= box.right
        assert min(y + 320, view.height) <= box.bottom
        across = planned.size[0] / view.width
        first, last = (max(x, 0) + 0.5) * across - 0.5, (min(x + 320, view.width) - 0.5) * across - 0.5
        assert cell.left <= max(first, 0)
        assert min(last, planned.size[0] - 1) <= cell.right - 1


def test_windows_without_tissue_are_skipped_and_counted() -> None:
    tissue = np.zeros((100, 200), bool)
    tissue[50, 150] = True  # grid pixels x 3000...3020, y 1000...1020
    planned = plan((4000, 2000), (1.0,), False, IMAGE, 256, tissue)
    everything = plan((4000, 2000), (1.0,), False, IMAGE, 256)
    assert planned.skipped + len(planned.windows) == len(everything.windows)
    expected = {(x, y) for _, x, y in everything.windows.tolist() if x < 3020 and x + 320 > 3000 and y < 1020 < y + 340}
    assert {(x, y) for _, x, y in planned.windows.tolist()} == expected


def test_an_empty_mask_leaves_an_empty_plan() -> None:
    planned = plan((4000, 2000), (1.0, 2.0), True, IMAGE, 256, np.zeros((10, 20), bool))
    assert len(planned.windows) == 0
    assert planned.fine.cells == {}
    assert planned.fine.parts == []


def test_sampling_one_to_one_takes_each_pixel_itself() -> None:
    sampling = Sampling.between(7, 7)
    assert sampling.lower.tolist() == list(range(7))
    assert not sampling.weight.any()


def test_sampling_uses_half_pixel_centres_and_clamps_at_the_border() -> None:
    sampling = Sampling.between(4, 2)  # positions -0.25, 0.25, 0.75, 1.25
    mixed = sampling.lower * (1 - sampling.weight) + sampling.upper * sampling.weight
    assert mixed.tolist() == [0, 0.25, 0.75, 1]


def around(size: tuple[int, int], scale: float, flips: bool, side: int, factor: float) -> list[list[int]]:
    """view, x, y of the windows of a second input."""
    planned = plan(size, (scale,), flips, (*IMAGE, InputSpec("context", side, factor)), 256)
    assert np.array_equal(planned.layers[1].cell_of, planned.fine.cell_of)
    return planned.layers[1].windows.tolist()


@pytest.mark.parametrize(
    ("size", "scale", "factor", "places"),
    [
        # Fine windows begin at 0, 256 and 480 of 800: their middles 160, 416, 640 lie at 40, 104, 160 of 200.
        ((800, 320), 1.0, 4.0, [[0, -24, -24], [0, 40, -24], [0, 96, -24]]),
        # At scale 0.5 of 1600 as well, with a grid of 400 that is shown at 200.
        ((1600, 640), 0.5, 4.0, [[0, -24, -24], [0, 40, -24], [0, 96, -24]]),
        # An image smaller than the window: the middle of what it shows, (50, 30), at (12.5, 7.5) of 25 x 15.
        ((100, 60), 1.0, 4.0, [[0, -51, -56]]),
        ((800, 320), 1.0, 1.0, [[0, 96, 96], [0, 352, 96], [0, 576, 96]]),
    ],
)
def test_a_wider_window_shares_its_middle_with_the_fine_one(
    size: tuple[int, int], scale: float, factor: float, places: list[list[int]]
) -> None:
    assert around(size, scale, False, 128, factor) == places


def test_a_wider_window_of_a_mirrored_view_lies_where_the_fine_one_does() -> None:
    mirrored = [place for place in around((800, 320), 1.0, True, 128, 4.0) if place[0] == 1]
    assert mirrored == [[1, -24, -24], [1, 32, -24], [1, 96, -24]]


def test_wider_windows_need_no_pixels_beyond_their_grid() -> None:
    planned = plan((1787, 2388), (0.75, 2.5), True, (*IMAGE, InputSpec("context", 200, 3.0)), 256)
    wide = planned.layers[1]
    assert wide.size == (596, 796)
    for box in wide.cells.values():
        assert 0 <= box.left < box.right <= 596
        assert 0 <= box.top < box.bottom <= 796
    assert {part.cell for part in wide.parts} == set(wide.cells)
