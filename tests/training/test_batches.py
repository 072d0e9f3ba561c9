"""Examples put together as batches: images, bags of different lengths, several inputs."""

import numpy as np
import pytest
import torch

from glassrt.training.batches import Bags, Example, Random, batches, epoch_steps, shuffled, stack
from glassrt.training.config import Schedule
from glassrt.training.world import World

CPU = torch.device("cpu")


def paint(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).integers(0, 256, shape, dtype=np.uint8)


def as_pixels(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).byte().numpy()


def test_images_are_stacked() -> None:
    images = [paint(8, 6, 3), paint(8, 6, 3)[::-1]]
    batch = stack(images, CPU)
    assert batch.dtype == torch.float32
    assert np.array_equal(as_pixels(batch), np.stack(images))


@pytest.mark.parametrize("sizes", [[3], [1, 1], [4, 1, 7]])
def test_bags_follow_one_another_without_padding(sizes: list[int]) -> None:
    given = [paint(size, 8, 6, 3) for size in sizes]
    batch = stack(given, CPU)
    assert isinstance(batch, Bags)
    assert batch.instances.shape == (sum(sizes), 3, 8, 6)
    assert batch.sizes == sizes
    for bag, images in zip(given, batch.instances.split(batch.sizes), strict=True):
        assert np.array_equal(as_pixels(images), bag)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("sizes", [[3], [1, 1], [4, 1, 7]])
def test_bags_of_stored_features_stay_as_they_are(sizes: list[int], dtype: type) -> None:
    given = [np.random.default_rng(size).normal(size=(size, 5)).astype(dtype) for size in sizes]
    batch = stack(given, CPU)
    assert isinstance(batch, Bags)
    assert batch.instances.dtype == torch.float32
    assert batch.sizes == sizes
    for bag, features in zip(given, batch.instances.split(batch.sizes), strict=True):
        assert np.array_equal(features.numpy(), bag.astype(np.float32))


def test_inputs_keep_their_names_and_sizes() -> None:
    given = [{"fine": paint(8, 8, 3), "context": paint(4, 6, 3), "bag": paint(size, 2, 2, 3)} for size in (1, 3)]
    batch = stack(given, CPU)
    assert list(batch) == ["fine", "context", "bag"]
    for name in ("fine", "context"):
        assert np.array_equal(as_pixels(batch[name]), np.stack([each[name] for each in given]))
    assert batch["bag"].sizes == [1, 3]


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("first", [0, 2])
def test_processes_draw_the_examples_of_one_between_them(size: int, first: int) -> None:
    """Each example has its own random numbers, whoever draws it and wherever the run began."""

    def draw(number: int, random: Random) -> Example:
        return Example(
            random.integers(0, 256, (1 + number % 3, 2, 2, 3), dtype=np.uint8), np.array(number), f"{number}"
        )

    schedule = Schedule(batch=4, steps=3, optimiser="sgd", learning_rate=1.0, weight_decay=0.0, seed=5)
    drawn = []
    for rank in range(size):
        with batches(draw, schedule, first, 4 // size, World(rank, size, CPU)) as mine:
            drawn.append(list(mine))
    for step, shares in enumerate(zip(*drawn, strict=True), start=first):
        numbers = range(step * 4, step * 4 + 4)
        assert [source for _, _, sources in shares for source in sources] == [str(number) for number in numbers]
        assert torch.cat([labels for _, labels, _ in shares]).tolist() == list(numbers)
        pixels = np.concatenate([as_pixels(inputs.instances) for inputs, _, _ in shares])
        wanted = [draw(number, np.random.default_rng([5, number])).inputs for number in numbers]
        assert np.array_equal(pixels, np.concatenate(wanted))


def test_each_draw_of_an_epoch_is_another_one() -> None:
    epochs = [[shuffled(number, 7, 1) for number in range(start, start + 7)] for start in (0, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(("count", "batch", "steps"), [(70, 1, 70), (563, 10, 57), (560, 10, 56), (3, 8, 1)])
def test_an_epoch_takes_each_thing(count: int, batch: int, steps: int) -> None:
    assert epoch_steps(count, batch) == steps
    assert (steps - 1) * batch < count
    assert {shuffled(number, count, 1) for number in range(steps * batch)} == set(range(count))
