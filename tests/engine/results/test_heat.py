"""Pictures of a class's probability."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from glassrt.engine.maps.mapfile import NOT_ANALYSED, MapFile
from glassrt.engine.results.overlay import draw_heat, sample_highest

WHITE, GREYED = 255, round(0.6 * 255 + 0.4 * 190)


def draw(folder: Path, probability: NDArray[np.uint8], classes: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The picture of a square map over white glass, `side` pixels to a side."""
    with MapFile(folder / "map.raw", 2, *probability.shape) as map_file:
        map_file.write_rows(0, np.stack([classes, probability]))
        return draw_heat(np.full((side, side, 3), WHITE, np.uint8), map_file, 1, "gland")


def test_heat_goes_from_clear_over_blue_to_red_and_what_was_not_analysed_is_grey(tmp_path: Path) -> None:
    probability, classes = np.zeros((2, 10, 10), np.uint8)
    probability[5, 2:6] = 0, 40, 128, 255
    classes[9] = NOT_ANALYSED
    picture = draw(tmp_path, probability, classes, 400).astype(int)
    clear, blue, green, red = picture[220, 100:260:40]
    assert clear.tolist() == [WHITE] * 3
    assert blue[2] == 255 > blue[0] > 200  # and faint
    assert green[1] == 255 > 200 > max(green[0], green[2])
    assert red[0] > 170 > 110 > max(red[1], red[2])
    assert picture[390, 300].tolist() == [GREYED] * 3
    assert (picture[15, 10:138, 0] < 255).any()  # the scale stands where the legend would


def test_a_hot_pixel_of_a_large_map_is_seen(tmp_path: Path) -> None:
    """Also where no sampled one would be it."""
    probability = np.zeros((1000, 1000), np.uint8)
    probability[777, 501] = 255
    picture = draw(tmp_path, probability, np.zeros_like(probability), 100).astype(int)
    assert np.argwhere(picture[40:].min(axis=2) < 120).tolist() == [[37, 50]]


@pytest.mark.parametrize("side", [1, 3, 9, 40])
def test_pictures_smaller_than_the_scale_are_drawn(tmp_path: Path, side: int) -> None:
    classes = np.zeros((5, 5), np.uint8)
    assert draw(tmp_path, classes, classes, side).shape == (side, side, 3)


@pytest.mark.parametrize(("shape", "size"), [((7, 5), (3, 2)), ((3, 2), (7, 5)), ((4, 4), (4, 4)), ((9, 2), (2, 9))])
def test_every_pixel_is_seen_in_one_of_the_sample(
    tmp_path: Path, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    values = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    with MapFile(tmp_path / "map.raw", 1, *shape) as map_file:
        map_file.write_rows(0, values[None])
        sampled = sample_highest(map_file, 0, *size)
    for (y, x), value in np.ndenumerate(sampled):
        rows, columns = (
            slice(at * length // count, max((at + 1) * length // count, at * length // count + 1))
            for at, length, count in ((y, shape[0], size[0]), (x, shape[1], size[1]))
        )
        assert value == values[rows, columns].max()
