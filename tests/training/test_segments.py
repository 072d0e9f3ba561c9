"""Sums and softmax within bags against loops over them."""

import math

import pytest
import torch

from glassrt.training.segments import number_bags, segment_max, segment_mean, segment_softmax, segment_sum

CPU = torch.device("cpu")


@pytest.mark.parametrize("sizes", [[1], [5], [1, 1, 1], [3, 1, 7, 2]])
def test_bags_of_any_size_are_as_each_alone(sizes: list[int]) -> None:
    random = torch.Generator().manual_seed(sum(sizes))
    scores = 5 * torch.randn(sum(sizes), generator=random, dtype=torch.float64)
    values = torch.randn(sum(sizes), 3, generator=random, dtype=torch.float64)
    index, count = number_bags(sizes, CPU), len(sizes)
    mixed = torch.randperm(sum(sizes), generator=random)
    for order in (torch.arange(sum(sizes)), mixed):
        softmax = torch.empty_like(scores)
        softmax[order] = segment_softmax(scores[order], index[order], count)
        total = segment_sum(values[order], index[order], count)
        mean = segment_mean(values[order], index[order], count)
        highest = segment_max(scores[order], index[order], count)
        begin = 0
        for bag, size in enumerate(sizes):
            mine = slice(begin, begin + size)
            powers = [math.exp(each) for each in scores[mine].tolist()]
            assert softmax[mine].tolist() == pytest.approx([each / sum(powers) for each in powers], rel=1e-12)
            assert total[bag].tolist() == pytest.approx([sum(each) for each in values[mine].T.tolist()], abs=1e-12)
            assert mean[bag].tolist() == pytest.approx(
                [sum(each) / size for each in values[mine].T.tolist()], abs=1e-12
            )
            assert highest[bag].item() == max(scores[mine].tolist())
            begin += size


def test_softmax_bears_scores_of_any_size_and_its_gradient_is_its_own() -> None:
    scores = torch.tensor([1e4, -1e4, 1e4 - 1, -300.0, -302.0], requires_grad=True)
    index = torch.tensor([0, 0, 0, 1, 1])
    softmax = segment_softmax(scores, index, 2)
    assert softmax.tolist() == pytest.approx([0.7310586, 0, 0.2689414, 0.8807971, 0.1192029], abs=1e-6)
    softmax[0].backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([0.1966119, 0, -0.1966119, 0, 0], abs=1e-6)
    exact = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: segment_softmax(values, index, 2), (exact,))


def test_an_empty_bag_is_refused() -> None:
    with pytest.raises(ValueError, match="bag 1 of the batch holds 0 instances"):
        number_bags([2, 0, 1], CPU)
