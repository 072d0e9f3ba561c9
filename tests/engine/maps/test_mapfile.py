from pathlib import Path

import numpy as np
import pytest

from glassrt.engine.maps import mapfile
from glassrt.engine.maps.canvas import Tile
from glassrt.engine.maps.mapfile import NOT_ANALYSED, MapFile, MapWriter


@pytest.mark.parametrize(
    ("left", "right"),
    [(0, 1000), (0, 5), (990, 1000), (100, 800), (968, 1000), (7, 38)],
    ids=["whole rows", "narrow at the left", "narrow at the right", "wide", "32nd part", "less than a 32nd part"],
)
@pytest.mark.parametrize("read_ahead", [1, 7000, 4_000_000])
def test_a_part_reads_the_same_however_it_is_cut_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int, right: int, read_ahead: int
) -> None:
    monkeypatch.setattr(mapfile, "READ_AHEAD", read_ahead)
    rows = np.random.default_rng(0).integers(0, 256, (2, 60, 1000), dtype=np.uint8)
    with MapFile(tmp_path / "map.raw", 2, 60, 1000) as map_file:
        map_file.write_rows(0, rows)
        for plane in range(2):
            assert np.array_equal(map_file.read(plane, 11, 59, left, right), rows[plane, 11:59, left:right])


def test_what_was_read_belongs_to_the_caller(tmp_path: Path) -> None:
    with MapFile(tmp_path / "map.raw", 1, 4, 8) as map_file:
        map_file.write_rows(0, np.ones((1, 4, 8), np.uint8))
        map_file.read(0, 0, 4)[:] = 9
        assert (map_file.read(0, 0, 4) == 1).all()


def test_the_file_is_deleted_when_scoring_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), MapFile(tmp_path / "map.raw", 1, 4, 8):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_tiles_become_rows_and_gaps_are_not_analysed(tmp_path: Path) -> None:
    gland = np.full((3, 4), 0.8, np.float32)
    probabilities = np.stack([1 - gland, gland])
    analysed = np.ones((3, 4), np.bool_)
    analysed[2, 3] = False
    probabilities[:, ~analysed] = 0
    with MapFile(tmp_path / "map.raw", 2, 10, 9) as map_file:
        tissue = np.zeros((20, 18), np.bool_)
        tissue[6:, 13:] = True  # from map row 3, and from the middle of map column 6
        writer = MapWriter(map_file, tissue)
        writer.place(Tile(2, 5, probabilities, analysed))
        writer.finish()
        classes, scores = map_file.read(0, 0, 10), map_file.read(1, 0, 10)
    expected = np.full((10, 9), NOT_ANALYSED)
    expected[2:5, 5:] = np.where(analysed, 1, NOT_ANALYSED)
    assert np.array_equal(classes, expected)
    assert np.array_equal(scores, np.where(expected == 1, 204, 0))
    assert writer.measured.pixels.tolist() == [0, 11]
    assert writer.measured.tissue_pixels.tolist() == [0, 2.5 + 1.5]
    assert writer.measured.probability == pytest.approx([0.2 * 11, 0.8 * 11])
