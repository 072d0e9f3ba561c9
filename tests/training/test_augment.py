"""Elastic deformation, rotation and mirroring of patches."""

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from glassrt.training.augment import Pixels, deform, turn, warp


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def dot(height: int, width: int, x: int, y: int) -> Pixels:
    """A soft spot on black, whose centre of mass tells where it lies to a tenth of a pixel."""
    picture = np.zeros((height, width, 3), np.float32)
    picture[y, x] = 255 * 60
    return np.clip(cv2.GaussianBlur(picture, (0, 0), 2.0), 0, 255).astype(np.uint8)


def lies_at(picture: Pixels) -> NDArray[np.float64]:
    """x and y of the centre of mass."""
    weight = picture.sum(2, dtype=np.float64)
    assert weight.sum() > 0
    sums = [weight.sum(axis) @ np.arange(weight.shape[1 - axis]) for axis in (0, 1)]
    return np.array(sums, np.float64) / float(weight.sum())


def still(side: int) -> NDArray[np.float32]:
    return np.zeros((side, side, 2), np.float32)


@pytest.mark.parametrize(("height", "width", "side"), [(64, 64, 64), (91, 90, 64), (64, 65, 33), (80, 120, 48)])
def test_without_strength_the_middle_stays_as_it_is(height: int, width: int, side: int) -> None:
    picture = noise(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    found = deform(picture, side, 0.0, False, np.random.default_rng(3))
    assert np.array_equal(found, picture[top : top + side, left : left + side])


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize(("height", "width"), [(92, 92), (64, 64), (40, 130)])
def test_the_generator_alone_decides(height: int, width: int, rotate: bool) -> None:
    picture = noise(height, width)
    kept = picture.copy()
    first, again, other = (deform(picture, 64, 5.0, rotate, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(picture, kept)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("side", [32, 33])
def test_quarters_are_exact(side: int, turns: int, mirror: bool) -> None:
    picture = noise(side, side)
    assert np.array_equal(warp(picture, turns * math.pi / 2, mirror, still(side)), turn(picture, turns, mirror))


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("angle", [0.3, 1.9, 4.0])
def test_any_angle_turns_to_the_left_about_the_middle(angle: float, mirror: bool) -> None:
    found = lies_at(warp(dot(101, 101, 70, 58), angle, mirror, still(81))) - 40
    x, y = (-20 if mirror else 20), 8  # of the spot, from the middle
    wanted = [math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x]
    assert found == pytest.approx(wanted, abs=0.1)


@pytest.mark.parametrize(("right", "down"), [(6.0, 0.0), (0.0, -4.5), (-3.25, 7.0)])
def test_a_displaced_pixel_is_taken_from_where_it_says(right: float, down: float) -> None:
    moved = np.broadcast_to(np.array([right, down], np.float32), (81, 81, 2))
    found = lies_at(warp(dot(101, 101, 52, 45), 0.0, False, moved))
    assert found == pytest.approx([52 - 10 - right, 45 - 10 - down], abs=0.1)


def test_displacements_turn_with_the_image() -> None:
    """A step to the right in the result is one in the turned image, whatever its angle."""
    moved = np.broadcast_to(np.array([6, 0], np.float32), (81, 81, 2))
    at_rest, stepped = (lies_at(warp(dot(101, 101, 52, 45), 0.7, True, field)) for field in (still(81), moved))
    assert stepped - at_rest == pytest.approx([-6, 0], abs=0.1)


def test_beyond_its_border_the_image_is_reflected() -> None:
    picture = noise(20, 20)
    found = warp(picture, 0.0, False, still(36))
    assert np.array_equal(found, np.pad(picture, ((8, 8), (8, 8), (0, 0)), mode="reflect"))


def test_deformations_are_smooth_and_as_strong_as_told() -> None:
    """Pictures of coordinates show what was taken from where."""
    side, elastic = 96, 4.0
    rows, columns = np.indices((200, 200))
    ramp = np.dstack([columns, rows, rows]).astype(np.uint8)
    moved = []
    for seed in range(200):
        found = deform(ramp, side, elastic, False, np.random.default_rng(seed)).astype(float)[..., :2]
        moved.append(found - ramp[52 : 52 + side, 52 : 52 + side, :2])
        assert np.abs(np.diff(found, axis=0)).max() < 4
    spread = np.array(moved)[:, side // 6 :: side // 3, side // 6 :: side // 3].std()  # at the points drawn
    assert spread == pytest.approx(elastic, rel=0.1)
    assert np.abs(np.mean(moved)) < 0.3


def test_rotation_reaches_every_angle_and_both_sides() -> None:
    angles, sides = [], set()
    corner = np.dstack([dot(101, 101, 70, 50)[..., 0], dot(101, 101, 50, 70)[..., 0], np.zeros((101, 101), np.uint8)])
    for seed in range(120):
        found = deform(corner, 81, 0.0, True, np.random.default_rng(seed))
        along, across = (lies_at(found[..., channel : channel + 1]) - 40 for channel in (0, 1))
        angles.append(math.atan2(along[1], along[0]))
        sides.add(round(float(along[0] * across[1] - along[1] * across[0]) / 400))
    assert sides == {-1, 1}
    assert np.histogram(angles, 8, (-math.pi, math.pi))[0].min() > 3
