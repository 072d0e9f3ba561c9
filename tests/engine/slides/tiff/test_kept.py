"""Decoded tiles that are kept: the latest ones, as long as their slide is open."""

import numpy as np

from glassrt.engine.slides.tiff.kept import Kept

TILE = np.zeros((10, 10, 3), np.uint8)


def test_the_latest_tiles_are_decoded_once() -> None:
    kept, decoded, slide = Kept(3 * TILE.nbytes), [], object()

    def get(place: int) -> None:
        kept.get(slide, place, lambda: decoded.append(place) or TILE.copy())  # type: ignore[func-returns-value]

    for place in (0, 1, 2, 0, 3, 0, 1):
        get(place)
    assert decoded == [0, 1, 2, 3, 1]
    assert kept._bytes == sum(tile.nbytes for tile in kept._tiles.values()) == 3 * TILE.nbytes


def test_a_tile_that_is_too_large_to_keep_is_given_all_the_same() -> None:
    kept = Kept(TILE.nbytes - 1)
    assert kept.get("slide", 0, TILE.copy).shape == TILE.shape
    assert not kept._tiles


def test_a_closed_slide_leaves_no_tiles_behind() -> None:
    kept = Kept()
    for slide in ("open", "closed"):
        for place in range(4):
            kept.get(slide, place, TILE.copy)
    kept.forget("closed")
    assert {slide for slide, _ in kept._tiles} == {"open"}
    assert kept._bytes == 4 * TILE.nbytes
