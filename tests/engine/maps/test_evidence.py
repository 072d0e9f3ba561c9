"""Slide scores pooled in one pass, against NumPy on all pixels at once."""

import numpy as np
import pytest

from glassrt.engine.maps.canvas import Tile
from glassrt.engine.maps.evidence import BIN, LIMIT, Evidence, SlideScores, log_odds
from glassrt.engine.maps.upsampling import softmax_beside_zero


def pool(logits, eta, analysed=None, tissue=None, side=100):
    """The scores of a square map whose class 1 has these logits beside class 0's 0, given in tiles."""
    logits = np.asarray(logits, np.float32)
    height, width = logits.shape
    tissue = np.ones((height, width), np.bool_) if tissue is None else tissue
    analysed = np.ones((height, width), np.bool_) if analysed is None else analysed
    evidence = Evidence(1, eta, tissue, (width, height))
    for top in range(0, height, side):
        for left in range(0, width, side):
            part = np.s_[top : top + side, left : left + side]
            evidence.place(Tile(top, left, softmax_beside_zero(logits[part][None]) * analysed[part], analysed[part]))
    return evidence.scores()


@pytest.mark.parametrize("eta", [0.001, 1, 50, 100])
@pytest.mark.parametrize("spread", [0.001, 1.0, 20.0])
def test_scores_are_those_of_all_pixels_at_once(eta, spread):
    logits = np.random.default_rng(3).normal(-spread, spread, (230, 310)).astype(np.float32)
    found = pool(logits, eta)
    ordered = np.sort(logits.ravel().astype(np.float64))[::-1]
    top = ordered[: max(1, round(eta / 100 * ordered.size))].mean()
    assert found.maximum == pytest.approx(ordered[0], rel=1e-5, abs=1e-6)
    assert abs(found.percentile_99 - np.percentile(ordered, 99)) < BIN
    assert abs(found.top - top) < BIN


def test_scores_do_not_depend_on_the_order_of_tiles():
    random = np.random.default_rng(4)
    logits = (random.normal(0, 5, (210, 310)) * 10 ** random.uniform(-7, 0, (210, 310))).astype(np.float32)
    seen = np.ones((50, 50), np.bool_)
    places = [(top, left) for top in range(0, 200, 50) for left in range(0, 300, 50)]
    found = set()
    for _ in range(20):
        evidence = Evidence(1, 3.7, np.ones((1, 1), np.bool_), (310, 210))
        for at in random.permutation(len(places)):
            top, left = places[at]
            part = logits[top : top + 50, left : left + 50]
            evidence.place(Tile(top, left, softmax_beside_zero(part[None]), seen))
        found.add(evidence.scores())
    assert len(found) == 1


def test_slides_are_ranked_where_their_largest_probabilities_are_all_one():
    surer = pool(np.full((4, 4), 60.0), 50)
    sure = pool(np.full((4, 4), 40.0), 50)
    assert softmax_beside_zero(np.full((1, 1), 40, np.float32))[1, 0] == 1
    assert surer.maximum == pytest.approx(60, abs=1e-4)
    assert sure.maximum == pytest.approx(40, abs=1e-4)
    assert surer.maximum > sure.maximum


def test_what_float32_cannot_tell_is_held_within_the_limit():
    assert pool(np.full((3, 3), 500.0), 50) == SlideScores(LIMIT, LIMIT, LIMIT)
    assert pool(np.full((3, 3), -500.0), 50) == SlideScores(-LIMIT, -LIMIT, -LIMIT)


def test_only_analysed_tissue_counts():
    logits = np.zeros((20, 20))
    logits[:, :5], logits[:, 15:] = 9, 7
    analysed, tissue = np.ones((20, 20), np.bool_), np.ones((20, 20), np.bool_)
    analysed[:, :5] = False
    tissue[:, 15:] = False
    assert pool(logits, 50, analysed, tissue) == pytest.approx((0, 0, 0), abs=1e-6)


def test_a_pixel_that_holds_but_a_little_tissue_counts():
    tissue = np.zeros((400, 400), np.bool_)
    tissue[5, 5] = True
    assert pool([[3.0, 8.0], [8.0, 8.0]], 50, tissue=tissue) == pytest.approx((3, 3, 3), abs=1e-5)


def test_without_tissue_there_is_no_score():
    assert pool(np.zeros((8, 8)), 50, tissue=np.zeros((8, 8), np.bool_)) is None


def test_all_other_classes_speak_against_one():
    probabilities = np.array([0.2, 0.5, 0.3], np.float32).reshape(3, 1, 1)
    assert log_odds(probabilities, 1).item() == pytest.approx(np.log(0.5 / 0.5), abs=1e-6)
    assert log_odds(probabilities, 2).item() == pytest.approx(np.log(0.3 / 0.7), abs=1e-6)
