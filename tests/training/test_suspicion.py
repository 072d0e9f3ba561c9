"""Places drawn in proportion to what is suspected of them, and slides by turns."""

import numpy as np
import pytest

from glassrt.training.suspicion import BLOCK, SuspicionMap, choose, choose_slide

FEW = np.array([[0, 0.1, 0.2], [0.4, 0.0, 0.8]], np.float16)


def count(suspicions, alpha, draws):
    """How often each pixel is drawn."""
    drawn, random = np.zeros(suspicions.shape, np.int64), np.random.default_rng(5)
    places = SuspicionMap(suspicions, alpha)
    for _ in range(draws):
        x, y = places.draw(random)
        drawn[y, x] += 1
    return drawn


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_places_come_in_proportion_to_suspicion_to_the_power_of_alpha(alpha):
    expected = np.where(FEW > 0, FEW.astype(np.float64) ** alpha, 0)
    expected *= 5_000 / expected.sum()
    drawn = count(FEW, alpha, 5_000)
    assert (drawn[FEW == 0] == 0).all()
    seen = FEW > 0
    assert ((drawn - expected)[seen] ** 2 / expected[seen]).sum() < 20  # chi square of 3 degrees: p < 2e-4


def test_blocks_and_what_is_left_at_the_borders_are_drawn_alike():
    wide = np.full((BLOCK + 7, 2 * BLOCK + 3), 0.3, np.float16)
    drawn = count(wide, 2.0, 8_000)
    shares = np.array([drawn[:BLOCK, :BLOCK].sum(), drawn[BLOCK:].sum(), drawn[:, 2 * BLOCK :].sum()]) / 8_000
    areas = np.array([BLOCK * BLOCK, 7 * (2 * BLOCK + 3), (BLOCK + 7) * 3]) / wide.size
    assert shares == pytest.approx(areas, rel=0.2)


def test_what_is_suspected_a_million_times_less_still_comes_where_nothing_else_is():
    faint = np.zeros((300, 300), np.float16)
    faint[270, 10] = 6e-8
    assert SuspicionMap(faint, 2.0).draw(np.random.default_rng(1)) == (10, 270)


def test_evidence_is_the_sum_of_the_map():
    places = SuspicionMap(FEW, 2.0)
    assert places.evidence == pytest.approx(1.5, rel=1e-3)


class Highest:
    """Random numbers as high as they come."""

    def random(self):
        return np.nextafter(1.0, 0.0)


def test_the_highest_random_number_chooses_the_last_weight_that_there_is():
    assert choose(np.array([0.1, 0.2, 0.7 / 3, 0.0, 0.0]), Highest()) == 2
    assert choose(np.array([3.3, 0.0]), Highest()) == 0


def slides_of(first, turns, malign, benign):
    """The slides of so many turns."""
    return [
        choose_slide(turn, malign, benign, 7, np.random.default_rng([1, turn])) for turn in range(first, first + turns)
    ]


def test_malign_and_benign_slides_come_at_one_rate():
    drawn = slides_of(0, 400, 3, [1.0, 1.0])
    assert sum(malign for malign, _ in drawn) == 200


@pytest.mark.parametrize("first", [0, 13, 101])
def test_no_slide_is_left_out_for_long_whatever_the_evidence(first):
    drawn = set(slides_of(first, 8 * 6, 6, [1e9, 0, 0, 0, 0, 1e-9]))
    assert drawn == {(malign, number) for malign in (True, False) for number in range(6)}


def test_half_of_the_benign_patches_go_where_evidence_is_false():
    benign = [number for malign, number in slides_of(0, 8000, 2, [0.0, 3.0, 1.0, 0.0]) if not malign]
    shares = np.bincount(benign, minlength=4) / len(benign)
    assert shares == pytest.approx([0.125, 0.5, 0.25, 0.125], abs=0.03)


def test_without_evidence_benign_slides_come_alike():
    benign = [number for malign, number in slides_of(0, 800, 2, [0.0, 0.0]) if not malign]
    assert np.bincount(benign).tolist() == [200, 200]
