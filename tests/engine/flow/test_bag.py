"""The running softmax of a bag against the direct one in float64."""

import numpy as np
import pytest

from glassrt.engine.flow.bag import SoftmaxMean, open_mean


def direct(scores: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weighted mean, and the weights, of all instances at once."""
    powers = np.exp(scores.astype(np.float64) - scores.max().astype(np.float64))
    weights = powers / powers.sum()
    return (weights[:, None] * values.astype(np.float64)).sum(0), weights


@pytest.mark.parametrize("chunk", [1, 7, 100, 1000])
@pytest.mark.parametrize("largest", [0.0, 1.0, 80.0, 1e4])
@pytest.mark.parametrize("order", ["drawn", "rising", "falling"])
def test_any_chunks_give_the_direct_mean(chunk: int, largest: float, order: str) -> None:
    random = np.random.default_rng(5)
    scores = random.uniform(-largest, largest, 1000).astype(np.float32)
    scores = {"drawn": scores, "rising": np.sort(scores), "falling": np.sort(scores)[::-1]}[order]
    values = random.normal(size=(1000, 3)).astype(np.float32)
    bag = SoftmaxMean()
    for begin in range(0, 1000, chunk):
        bag.add(scores[begin : begin + chunk], values[begin : begin + chunk])
    mean, weights = direct(scores, values)
    assert bag.count == 1000
    assert np.abs(bag.mean() - mean).max() < 1e-6
    found = bag.weigh(scores)
    assert found.dtype == np.float32
    assert np.abs(found - weights).max() < 1e-7
    assert found.sum(dtype=np.float64) == pytest.approx(1, abs=1e-6)


def test_close_contenders_at_large_scores_are_told_apart() -> None:
    scores = np.array([9999, 1e4, -1e4, 9998.5], np.float32)
    values = np.array([[1.0], [-1.0], [1e6], [5.0]])
    bag = SoftmaxMean()
    for score, value in zip(scores, values, strict=True):
        bag.add(np.array([score]), value[None])
    powers = np.exp([-1.0, 0.0, -1.5])
    assert bag.mean()[0] == pytest.approx((powers * [1, -1, 5]).sum() / powers.sum(), abs=1e-12)
    assert bag.weigh(scores).tolist() == pytest.approx([*(powers[:2] / powers.sum()), 0, powers[2] / powers.sum()])


@pytest.mark.parametrize("score", [0.0, -1e4, 1e4])
def test_one_instance_has_all_the_weight(score: float) -> None:
    bag = SoftmaxMean()
    bag.add(np.array([score], np.float32), np.array([[3.0, -2.0]]))
    assert bag.mean().tolist() == [3, -2]
    assert bag.weigh(np.array([score], np.float32)).tolist() == [1]


def test_what_is_held_does_not_grow() -> None:
    bag = SoftmaxMean()
    held = []
    for _ in range(3):
        bag.add(np.zeros(1000), np.ones((1000, 4)))
        held.append(sum(np.asarray(each).nbytes for each in vars(bag).values()))
    assert held[0] == held[-1] < 100


@pytest.mark.parametrize("chunks", [0, 2])
def test_an_empty_bag_has_nothing_to_say(chunks: int) -> None:
    bag = SoftmaxMean()
    for _ in range(chunks):
        bag.add(np.zeros(0), np.zeros((0, 2)))
    with pytest.raises(ValueError, match="the bag is empty"):
        bag.mean()
    with pytest.raises(ValueError, match="the bag is empty"):
        bag.weigh(np.zeros(0))
    bag.add(np.zeros(1), np.ones((1, 2)))
    bag.add(np.zeros(0), np.zeros((0, 2)))
    assert bag.mean().tolist() == [1, 1]


@pytest.mark.parametrize(
    ("scores", "values", "says"),
    [
        (np.zeros(2), np.zeros((3, 2)), r"are to be \[k\] and \[k, 2\]"),
        (np.zeros(2), np.zeros((2, 3)), r"are to be \[k\] and \[k, 2\]"),
        (np.zeros((2, 1)), np.zeros((2, 2)), r"are to be \[k\] and \[k, 2\]"),
        (np.array([0, np.inf]), np.zeros((2, 2)), "instances 1 to 2 hold NaN or infinity"),
        (np.array([0, -np.inf]), np.zeros((2, 2)), "instances 1 to 2 hold NaN or infinity"),
        (np.zeros(2), np.array([[0, 0], [0, np.nan]]), "instances 1 to 2 hold NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_bag_as_it_was(
    scores: np.ndarray, values: np.ndarray, says: str
) -> None:
    bag = SoftmaxMean()
    bag.add(np.zeros(1), np.array([[2.0, 4.0]]))
    with pytest.raises(ValueError, match=says):
        bag.add(scores, values)
    assert (bag.count, bag.mean().tolist()) == (1, [2, 4])


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_highest_alone_count_however_they_come(chunk: int) -> None:
    random = np.random.default_rng(2)
    scores = random.integers(-3, 4, 100).astype(np.float32)  # several are highest
    values = random.normal(size=(100, 2)).astype(np.float32)
    bag = open_mean("max")
    for begin in range(0, 100, chunk):
        bag.add(scores[begin : begin + chunk], values[begin : begin + chunk])
    highest = scores == 3
    assert 1 < highest.sum() < 100
    assert bag.count == 100
    assert bag.mean() == pytest.approx(values[highest].astype(np.float64).mean(axis=0), abs=1e-7)
    assert bag.weigh(scores) == pytest.approx(highest / highest.sum())


def test_poolings_have_the_mean_that_is_theirs() -> None:
    scores, values = np.array([0.0, 0.0, 2.0]), np.array([[1.0], [2.0], [6.0]])
    means = {}
    for pooling, given in (("attention", scores), ("mean", np.zeros(3)), ("max", scores)):
        bag = open_mean(pooling)
        bag.add(given, values)
        means[pooling] = float(bag.mean()[0])
    assert means == pytest.approx({"attention": (3 + 6 * np.exp(2)) / (2 + np.exp(2)), "mean": 3.0, "max": 6.0})


@pytest.mark.parametrize("pooling", ["attention", "max"])
def test_what_is_no_number_or_of_another_length_is_refused(pooling: str) -> None:
    bag = open_mean(pooling)
    with pytest.raises(ValueError, match="empty"):
        bag.mean()
    with pytest.raises(ValueError, match="empty"):
        bag.weigh(np.zeros(1))
    bag.add(np.zeros(2), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="instances 2 to 2 hold NaN"):
        bag.add(np.zeros(1), np.array([[0.0, np.nan, 0.0]]))
    with pytest.raises(ValueError, match=r"\[k, 3\]"):
        bag.add(np.zeros(1), np.zeros((1, 2)))
    assert bag.count == 2
