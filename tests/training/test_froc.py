"""CAMELYON16's free-response ROC against cases worked out by hand, and its steps against SciPy and scikit-image."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from glassrt.training.froc import (
    LEVEL_MPP,
    Candidate,
    Hits,
    Lesions,
    fill_holes,
    find_candidates,
    find_lesions,
    froc_curve,
    major_axes,
    match,
    mean_sensitivity,
)

MISSED = -math.inf


def grid(rows: str) -> NDArray[np.int32]:
    """A map drawn as digits, rows parted by spaces."""
    return np.array([[int(sign) for sign in row] for row in rows.split()], np.int32)


def square(shape: tuple[int, int], *boxes: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """Rectangles (top, left, bottom, right) of true pixels."""
    mask = np.zeros(shape, np.bool_)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def test_what_lies_near_a_lesion_belongs_to_it() -> None:
    """37.5 micrometres are 4.82 pixels of level 5: 4 to a side, and (3, 3) but not (3, 4) from a corner."""
    lesions = find_lesions(square((40, 60), (20, 20, 21, 21)), LEVEL_MPP)
    rows, columns = np.nonzero(lesions.numbers)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 24, 16, 24)
    assert lesions.numbers[23, 23] == 1
    assert lesions.numbers[23, 24] == lesions.numbers[24, 23] == 0
    # At 7.5 micrometres the fifth pixel lies at the threshold itself, which is not below it.
    assert find_lesions(square((40, 60), (20, 20, 21, 21)), 7.5).numbers[20, 24:27].tolist() == [1, 0, 0]
    assert find_lesions(square((40, 60), (20, 20, 21, 21)), 7.499).numbers[20, 24:27].tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("boxes", "count", "isolated"),
    [
        ([], 0, 0),
        ([(10, 10, 60, 60)], 1, 0),
        ([(10, 10, 60, 60), (10, 68, 60, 120)], 1, 0),  # eight pixels apart meet in the middle
        ([(10, 10, 60, 60), (10, 70, 60, 120)], 2, 0),
        ([(10, 10, 60, 60), (64 + 4, 64 + 4, 120, 120)], 2, 0),
        ([(10, 10, 12, 12)], 0, 1),  # some 10 pixels are long, 35.4 count
        ([(10, 10, 60, 60), (80, 80, 82, 82)], 1, 1),
        ([(10, 10, 12, 30)], 0, 1),
        ([(10, 10, 12, 46)], 1, 0),
    ],
)
def test_lesions_are_told_apart_and_small_ones_are_none(
    boxes: list[tuple[int, int, int, int]], count: int, isolated: int
) -> None:
    lesions = find_lesions(square((130, 130), *boxes), LEVEL_MPP)
    assert (lesions.to_find, len(lesions.isolated)) == (count, isolated)


def test_a_ring_is_one_lesion_with_what_it_surrounds() -> None:
    ring = square((130, 130), (20, 20, 100, 100)) & ~square((130, 130), (24, 24, 96, 96))
    lesions = find_lesions(ring, LEVEL_MPP)
    assert lesions.numbers[60, 60] == 1
    assert lesions.to_find == 1
    assert find_lesions(np.ones((50, 50), np.bool_), LEVEL_MPP).to_find == 1


def test_the_steps_are_those_of_the_published_script() -> None:
    """Which are SciPy's distance transform and filled holes, and scikit-image's labels and major axes."""
    ndimage, measure = pytest.importorskip("scipy.ndimage"), pytest.importorskip("skimage.measure")
    random = np.random.default_rng(2)
    for shares in (0.995, 0.999, 0.9998):
        malign = ndimage.gaussian_filter(random.random((200, 260)), 2)
        malign = malign > np.quantile(malign, shares)
        near = ndimage.distance_transform_edt(~malign) < 75 / (0.243 * 2**5 * 2)
        filled = ndimage.binary_fill_holes(near)
        expected = measure.label(filled, connectivity=2)
        lengths = [each.axis_major_length for each in measure.regionprops(expected)]
        lesions = find_lesions(malign, LEVEL_MPP)
        assert np.array_equal(fill_holes(near), filled)
        assert np.array_equal(lesions.numbers > 0, filled)
        named = [int(lesions.numbers[expected == number][0]) for number in range(1, expected.max() + 1)]
        assert np.array_equal(lesions.numbers, np.array([0, *named])[expected])
        assert major_axes(lesions.numbers)[np.array(named) - 1] == pytest.approx(lengths)
        short = {name for name, length in zip(named, lengths, strict=True) if length < 275 / (0.243 * 2**5)}
        assert lesions.isolated == short
        assert lesions.to_find == len(named) - len(short)


def test_holes_end_where_a_way_leads_out() -> None:
    """Along edges alone: what is open at a corner is closed."""
    assert fill_holes(grid("00000 01110 01010 01110 00000") > 0)[2, 2]
    assert not fill_holes(grid("00000 01110 01010 01010 00000") > 0)[2, 2]
    assert fill_holes(grid("00000 01110 01010 01100 00000") > 0)[2, 2]
    assert not fill_holes(grid("0100 1010 0100 0000") > 0)[0, 0]


def test_a_candidate_is_the_maximum_of_its_component() -> None:
    odds = np.array(
        [
            [-1, 2, -1, -1, 0],
            [3, -1, -1, -1, 0],  # joined at a corner
            [-1, -1, -1, 60, 40],  # both probabilities are 1 in float32
            [7, -1, -1, -1, -1],
            [7, -1, 0, -1, 1e-3],  # the first of equals; 0 is not above
        ],
        np.float32,
    )
    found = find_candidates(odds)
    assert sorted(found) == sorted(
        [Candidate(1, 0, 3), Candidate(2, 3, 60), Candidate(3, 0, 7), Candidate(4, 4, pytest.approx(1e-3))]
    )
    assert find_candidates(np.full((3, 3), -1.0)) == []


def test_a_lesion_is_found_once_and_isolated_cells_are_neither() -> None:
    lesions = Lesions(grid("1100 0000 2203"), frozenset({2}))
    assert lesions.to_find == 2
    candidates = [
        Candidate(0, 0, 1.0),
        Candidate(0, 1, 5.0),
        Candidate(0, 1, 4.0),
        Candidate(2, 0, 9.0),
        Candidate(1, 1, 2.0),
        Candidate(2, 2, 3.0),
    ]
    assert match(candidates, lesions) == Hits((5, MISSED), (2, 3))
    assert match([], lesions) == Hits((MISSED, MISSED), ())
    none = find_lesions(np.zeros((3, 4), np.bool_), LEVEL_MPP)
    assert match([Candidate(0, 0, 1.0)], none) == Hits((), (1.0,))


def test_the_curve_falls_through_all_scores() -> None:
    slides = [Hits((5, MISSED), (4, 1)), Hits((2,), (3,)), Hits((), (4,)), Hits((6,), ())]
    mean_false, found = froc_curve(slides)
    #                              6     5    4    3     2    1
    assert mean_false.tolist() == [0, 0, 0, 0.5, 0.75, 0.75, 1]
    assert found.tolist() == [0, 1 / 4, 2 / 4, 2 / 4, 2 / 4, 3 / 4, 3 / 4]
    # 1/4: first reached with 4, at 0.5; 1/2 likewise; 1 with 1; more is never reached
    assert mean_sensitivity(mean_false, found) == pytest.approx((0.5 + 0.5 + 4 * 0.75) / 6)
    assert mean_sensitivity(mean_false, found, [0.75]) == 0.5  # the first of the two points there, not the better


@pytest.mark.parametrize(
    ("slides", "score"),
    [
        ([Hits((1,), ())], 1),
        ([Hits((MISSED,), ())], 0),
        ([Hits((MISSED,), (3,))], 0),
        ([Hits((1,), (2,) * 9)], 0),  # eight false alarms and more before it is found
        ([Hits((1,), (2,) * 9), Hits((), ()), Hits((), ()), Hits((), ()), Hits((), ())], (0 + 0 + 0 + 3) / 6),
        ([Hits((), (1, 2))], math.nan),
        ([], math.nan),
    ],
)
def test_the_score_is_the_mean_of_six_sensitivities(slides: list[Hits], score: float) -> None:
    assert mean_sensitivity(*froc_curve(slides)) == pytest.approx(score, nan_ok=True)
