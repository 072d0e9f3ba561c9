"""Sums and softmax within the bags of a batch, whose instances lie one after another or in any order.

`index` `[N]` (int64) is the bag of each instance, `count` how many bags there are. No bag is padded.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def number_bags(sizes: Sequence[int], device: torch.device) -> Tensor:
    """The bag of each instance, `[sum of sizes]`. Raises ValueError for a bag that holds nothing."""
    for bag, size in enumerate(sizes):
        if size < 1:
            raise ValueError(f"bag {bag} of the batch holds {size} instances: a bag holds at least one")
    held = torch.tensor(sizes, dtype=torch.int64, device=device)
    return torch.arange(len(sizes), device=device).repeat_interleave(held, output_size=sum(sizes))


def segment_sum(values: Tensor, index: Tensor, count: int) -> Tensor:
    """`[count, ...]`: the sum of each bag's values `[N, ...]`."""
    return values.new_zeros(count, *values.shape[1:]).index_add(0, index, values)


def segment_mean(values: Tensor, index: Tensor, count: int) -> Tensor:
    """`[count, ...]`: the mean of each bag's values `[N, ...]`; NaN for a bag that holds nothing."""
    held = index.bincount(minlength=count).reshape(count, *(1 for _ in values.shape[1:]))
    return segment_sum(values, index, count) / held


def segment_max(values: Tensor, index: Tensor, count: int) -> Tensor:
    """`[count]`: the largest of each bag's values `[N]`, without a gradient; -inf for a bag that holds nothing."""
    values = values.detach()
    return values.new_full((count,), -torch.inf).scatter_reduce(0, index, values, "amax")


def segment_softmax(scores: Tensor, index: Tensor, count: int) -> Tensor:
    """`[N]`: softmax of the scores `[N]` within each bag, which does not overflow."""
    powers = (scores - segment_max(scores, index, count)[index]).exp()
    return powers / segment_sum(powers, index, count)[index]
