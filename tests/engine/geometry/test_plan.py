import numpy as np
import pytest

from glassrt.engine.geometry.plan import plan
from glassrt.engine.geometry.sampling import Sampling
from glassrt.engine.geometry.views import round_half_up, window_starts


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
    planned = plan(size, (0.75, 1, 2), flips, 320, 256)
    assert len({tuple(window) for window in planned.windows.tolist()}) == len(planned.windows)
    for index, view in enumerate(planned.views):
        covered = np.zeros((view.height, view.width), bool)
        for _, x, y in planned.windows[planned.windows[:, 0] == index].tolist():
            covered[max(y, 0) : y + 320, max(x, 0) : x + 320] = True
        assert covered.all()


def test_each_cell_and_part_holds_all_pixels_of_its_windows() -> None:
    planned = plan((1787, 2388), (0.75, 1, 2.5), True, 320, 256)
    for index, (view_index, x, y) in enumerate(planned.windows.tolist()):
        view, cell = planned.views[view_index], planned.cells[int(planned.cell_of[index])]
        box = planned.parts[int(planned.part_of[index])].box
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
    planned = plan((4000, 2000), (1.0,), False, 320, 256, tissue)
    everything = plan((4000, 2000), (1.0,), False, 320, 256)
    assert planned.skipped + len(planned.windows) == len(everything.windows)
    expected = {(x, y) for _, x, y in everything.windows.tolist() if x < 3020 and x + 320 > 3000 and y < 1020 < y + 340}
    assert {(x, y) for _, x, y in planned.windows.tolist()} == expected


def test_an_empty_mask_leaves_an_empty_plan() -> None:
    planned = plan((4000, 2000), (1.0, 2.0), True, 320, 256, np.zeros((10, 20), bool))
    assert len(planned.windows) == 0
    assert planned.cells == {}
    assert planned.parts == []


def test_sampling_one_to_one_takes_each_pixel_itself() -> None:
    sampling = Sampling.between(7, 7)
    assert sampling.lower.tolist() == list(range(7))
    assert not sampling.weight.any()


def test_sampling_uses_half_pixel_centres_and_clamps_at_the_border() -> None:
    sampling = Sampling.between(4, 2)  # positions -0.25, 0.25, 0.75, 1.25
    mixed = sampling.lower * (1 - sampling.weight) + sampling.upper * sampling.weight
    assert mixed.tolist() == [0, 0.25, 0.75, 1]
