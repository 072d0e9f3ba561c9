"""Every share lies in 0...1, whatever the mask, the map and their resolutions."""

from pathlib import Path

import numpy as np
import pytest

from glassrt.engine.geometry.boxes import bands
from glassrt.engine.geometry.coverage import cover
from glassrt.engine.maps.canvas import Tile
from glassrt.engine.maps.mapfile import MapFile, MapWriter


@pytest.mark.parametrize("seed", range(40))
def test_shares_of_the_tissue_are_shares(tmp_path: Path, seed: int) -> None:
    """Random masks and maps in random tiles: classes share the tissue, and what they share is the mask's area."""
    random = np.random.default_rng(seed)
    mask = random.random(random.integers(1, 60, 2)) < random.random()
    height, width = random.integers(1, 90, 2).tolist()
    probabilities = random.dirichlet((0.3, 0.3, 0.3), (height, width)).transpose(2, 0, 1).astype(np.float32)
    analysed = np.ones((height, width), np.bool_) if seed % 2 else random.random((height, width)) < 0.7
    with MapFile(tmp_path / "map.raw", 3, height, width) as map_file:
        writer = MapWriter(map_file, mask)
        for top, bottom in bands(height, int(random.integers(1, height + 1))):
            for left, right in bands(width, int(random.integers(1, width + 1))):
                part = (slice(top, bottom), slice(left, right))
                writer.place(Tile(top, left, probabilities[:, *part] * analysed[part], analysed[part]))
        writer.finish()
    assert (writer.measured.tissue_pixels >= 0).all()
    assert (writer.measured.tissue_pixels <= writer.measured.pixels + 1e-9).all()
    if seed % 2:
        assert writer.measured.tissue_pixels.sum() / (height * width) == pytest.approx(mask.mean())
    total = writer.measured.tissue_pixels.sum()
    if total:
        shares = writer.measured.tissue_pixels / total
        assert (shares <= 1).all()
        assert shares.sum() == pytest.approx(1)


@pytest.mark.parametrize("map_size", [(7, 5), (30, 31), (200, 3), (1, 1)])
def test_a_part_of_a_map_is_covered_as_in_the_whole(map_size: tuple[int, int]) -> None:
    mask = np.random.default_rng(1).random((23, 29)) < 0.4
    whole = cover(mask, map_size, 0, 0, map_size)
    assert whole.mean() == pytest.approx(mask.mean())
    left, top = map_size[0] // 2, map_size[1] // 3
    part = cover(mask, map_size, left, top, (map_size[0] - left, map_size[1] - top))
    assert np.allclose(part, whole[top:, left:])
