"""Regions of a map whose tiles come in any order: those of the finished map, each once, as soon as they are whole."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from glassrt.engine.maps.canvas import TILE
from glassrt.engine.maps.growing import GrowingRegions
from glassrt.engine.maps.mapfile import NOT_ANALYSED, MapFile, write_blank
from glassrt.engine.maps.regions import Region, find_regions

CLASSES = 3


def paint_map(seed: int, rows: int, columns: int) -> np.ndarray:
    """Blobs of all sizes that reach over tiles, in two classes."""
    random = np.random.default_rng(seed)
    height, width = rows * TILE - 100, columns * TILE - 37
    noise = random.standard_normal((height // 8 + 1, width // 8 + 1)).astype(np.float32)
    smooth = cv2.resize(cv2.GaussianBlur(noise, (0, 0), 4), (width, height))
    painted = np.zeros((CLASSES, height, width), np.uint8)
    painted[0] = np.digitize(smooth, [0.02, 0.09])
    painted[1:] = random.integers(0, 256, (CLASSES - 1, height, width))
    return painted


def as_text(region: Region) -> tuple:
    rings = tuple(sorted(tuple(map(tuple, ring.tolist())) for ring in region.rings))
    return region.class_index, region.area_um2, region.mean_probability, rings


@pytest.mark.parametrize("contour_of", [0, 2])
@pytest.mark.parametrize("seed", range(6))
def test_each_region_is_given_out_once_and_as_early_as_it_can(tmp_path: Path, seed: int, contour_of: int) -> None:
    random = np.random.default_rng(seed)
    rows, columns = 3, 4
    painted = paint_map(seed, rows, columns)
    if contour_of:
        waves = np.sin(np.indices(painted.shape[1:]) / 20).min(axis=0)
        painted = np.concatenate([painted, (painted[2:] / (2 + waves)).astype(np.uint8)])
    expected = random.random((rows, columns)) < 0.85
    places = [tuple(map(int, place)) for place in random.permutation(np.argwhere(expected))]
    found: list[tuple[Region, tuple[int, ...]]] = []
    with MapFile(tmp_path / "map.raw", CLASSES, *painted.shape[1:], contour_of) as file:
        write_blank(file, 0, file.height)
        growing = GrowingRegions(file, 2.0, 40.0, expected)
        for number, (row, column) in enumerate(places):
            box = np.s_[:, row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
            blank = number % 5 == 4
            if not blank:
                file.write_part(row * TILE, column * TILE, painted[box])
            fresh = list(growing.add((row, column), None if blank else painted[box]))
            assert all(not touches(region, places[number + 1 :]) for region, _ in fresh)
            found += fresh
        found.sort(key=lambda each: each[1])
        regions = [as_text(region) for region in find_regions(file, 2.0, 40.0)]
        assert len(regions) > 30
        assert [as_text(region) for region, _ in found] == regions
        assert not growing._borders
        assert (file.read(0, 0, file.height) == NOT_ANALYSED).any() or expected.all()


def touches(region: Region, to_come: list[tuple[int, int]]) -> bool:
    """Whether an outline lies along the border of a tile that is to come."""
    edges = region.rings[0]
    for row, column in to_come:
        top, left = row * TILE, column * TILE
        inside = (edges[:, 0] > left) & (edges[:, 0] < left + TILE) & (edges[:, 1] > top) & (edges[:, 1] < top + TILE)
        if inside.any():
            return True
    return False
