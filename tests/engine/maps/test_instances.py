"""Touching regions parted by their contours."""

from collections import deque
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from glassrt.engine.maps import instances
from glassrt.engine.maps.canvas import Tile
from glassrt.engine.maps.instances import boxes, insides, tell_apart
from glassrt.engine.maps.mapfile import MapFile, paint
from glassrt.engine.maps.regions import find_regions

SIDES = ((-1, 0), (0, -1), (0, 1), (1, 0))


def statement(mask: np.ndarray, seeds: np.ndarray, smallest: int) -> np.ndarray:
    """The same, pixel by pixel."""
    height, width = mask.shape

    def parts(of: np.ndarray) -> list[list[tuple[int, int]]]:
        seen, found = np.zeros_like(of), []
        for start in map(tuple, np.argwhere(of).tolist()):
            if seen[start]:
                continue
            seen[start], part, queue = True, [], deque([start])
            while queue:
                row, column = queue.popleft()
                part.append((row, column))
                for down, across in SIDES:
                    at = row + down, column + across
                    if 0 <= at[0] < height and 0 <= at[1] < width and of[at] and not seen[at]:
                        seen[at] = True
                        queue.append(at)
            if len(part) >= smallest:
                found.append(part)
        return found

    labels = np.zeros(mask.shape, np.int32)
    for number, part in enumerate(parts(mask & seeds), start=1):
        labels[tuple(np.transpose(part))] = number
    whole = parts(mask)
    kept = np.zeros_like(mask)
    for part in whole:
        kept[tuple(np.transpose(part))] = True
        if not labels[tuple(np.transpose(part))].any():
            labels[tuple(np.transpose(part))] = labels.max() + 1
    while (waiting := np.argwhere(kept & (labels == 0))).size:
        before = np.pad(labels, 1)
        for row, column in waiting.tolist():
            near = [before[row + 1 + down, column + 1 + across] for down, across in SIDES]
            labels[row, column] = min((each for each in near if each), default=0)
    return labels


@pytest.mark.parametrize("seed", range(60))
def test_every_pixel_goes_to_the_seed_it_is_nearest_to(seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 40, 2)
    smooth = cv2.GaussianBlur(random.random((height, width)), (0, 0), random.choice([0.5, 1, 2]))
    mask, seeds = smooth > np.quantile(smooth, 0.4), smooth > np.quantile(smooth, 0.7)
    smallest = int(random.integers(1, 6))
    assert (tell_apart(mask, seeds, smallest) == statement(mask, seeds, smallest)).all()


def test_boxes_are_those_of_each_label_however_high_a_band_is(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((40, 30), np.int32)
    labels[3:20, 4:9], labels[10:35, 12:13], labels[0:2, 29:] = 2, 1, 3
    expected = [[12, 10, 13, 35], [4, 3, 9, 20], [29, 0, 30, 2]]
    assert boxes(labels).tolist() == expected
    monkeypatch.setattr(instances, "BAND_PIXELS", 70)
    assert boxes(labels).tolist() == expected


def two_glands() -> np.ndarray:
    """Probabilities [2, h, w] of gland and of its contour: two discs that share a border of three pixels, and a small
    one that is all contour.
    """
    rows, columns = np.indices((60, 100))
    left, right = (np.hypot(rows - 30, columns - centre) for centre in (30, 66))
    small = np.hypot(rows - 10, columns - 92)
    gland = np.minimum(left, right) < 20
    rim = gland & (np.minimum(left, right) > 16)
    gland |= (abs(rows - 30) < 8) & (columns > 30) & (columns < 66)
    rim |= (abs(rows - 30) < 8) & (columns > 46) & (columns < 50)
    rim |= small < 4
    gland |= small < 4
    return np.stack([np.where(gland, 0.9, 0.1), np.where(rim, 0.8, 0.05)]).astype(np.float32)


def test_a_region_is_parted_where_the_contour_runs(tmp_path: Path) -> None:
    gland, contour = two_glands()
    tile = Tile(0, 0, np.stack([1 - gland, gland]), np.ones(gland.shape, bool), contour)
    with MapFile(tmp_path / "plain.raw", 2, *gland.shape) as file:
        file.write_rows(0, paint(replace(tile, contour=None)))
        together = list(find_regions(file, 1.0, 20))
    with MapFile(tmp_path / "map.raw", 2, *gland.shape, contour_of=1) as file:
        assert file.planes == 3
        file.write_rows(0, paint(tile))
        apart = list(find_regions(file, 1.0, 20))
    assert len(together) == 2
    assert len(apart) == 3
    assert sum(each.area_um2 for each in apart) == sum(each.area_um2 for each in together) == (gland > 0.5).sum()
    one, two, small = sorted(apart, key=lambda each: each.rings[0][:, 0].mean())
    assert abs(one.area_um2 - two.area_um2) < 40
    assert small.area_um2 == min(each.area_um2 for each in together)
    assert one.rings[0][:, 0].max() == two.rings[0][:, 0].min() == 49  # the middle is as near to both: the lower has it
    assert all(abs(each.mean_probability - 0.9) < 0.003 for each in apart)


def test_insides_are_where_a_class_is_less_at_its_contour_than_not() -> None:
    gland, contour = np.array([[255, 255, 200, 200, 0]], np.uint8), np.array([[127, 128, 100, 99, 0]], np.uint8)
    assert insides(gland, contour).tolist() == [[True, False, False, True, False]]


def test_boxes_hold_each_label() -> None:
    labels = np.array([[0, 2, 2], [1, 0, 2], [1, 3, 0]], np.int32)
    assert boxes(labels).tolist() == [[0, 1, 1, 3], [1, 0, 3, 2], [1, 2, 2, 3]]
