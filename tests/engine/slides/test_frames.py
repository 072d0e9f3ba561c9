"""Results of slides that viewers crop: each in a frame that the result states."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from made_tiffs import MPP, write_pages, write_scn
from plain_network import PSPNET
from shapely.geometry import shape

from glassrt.engine import ArraySlide, open_bundle, open_slide, score
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.slides.frames import keep_scanned

PLACE, WHOLE = (1500, 1000), (3000, 2000)


@pytest.fixture(scope="module")
def scored(demo_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of a Leica slide with bounds and of the same pixels in a plain TIFF."""
    folder = tmp_path_factory.mktemp("bounds")
    with open_slide(demo_slide) as demo:
        pixels = demo.read_level(0, (300, 1200), (900, 700))
    white = np.full((*WHOLE[::-1], 3), 255, np.uint8)
    white[PLACE[1] : PLACE[1] + 700, PLACE[0] : PLACE[0] + 900] = pixels
    for path in (write_scn(folder / "a.scn", pixels, PLACE, WHOLE), write_pages(folder / "b.tiff", [(white, {})])):
        with open_slide(path) as slide:
            score(slide, open_bundle(PSPNET), folder / path.stem)
    return folder / "a", folder / "b"


def test_the_map_covers_the_whole_and_says_where_it_lies(scored: tuple[Path, Path]) -> None:
    maps = [folder / "map.ome.tif" for folder in scored]
    assert np.array_equal(tifffile.imread(maps[0]), tifffile.imread(maps[1]))
    positions = []
    for path in maps:
        with tifffile.TiffFile(path) as file:
            pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        positions.append([[plane[f"Position{axis}"] for axis in "XY"] for plane in pixels.get("Plane", [])])
    assert positions == [[[-PLACE[0] * MPP, -PLACE[1] * MPP]] * 2, []]


def test_regions_lie_where_viewers_show_them(scored: tuple[Path, Path]) -> None:
    shown, whole = (json.loads((folder / "regions.geojson").read_text())["features"] for folder in scored)
    assert len(shown) == len(whole) > 0
    for one, other in zip(shown, whole, strict=True):
        difference = np.subtract(shape(other["geometry"]).bounds, shape(one["geometry"]).bounds)
        assert difference == pytest.approx([*PLACE, *PLACE], abs=0.011)
        assert one["properties"] == other["properties"]


def test_the_result_states_every_frame(scored: tuple[Path, Path]) -> None:
    cropped, plain = (json.loads((folder / "result.json").read_text())["frame"] for folder in scored)
    whole = {"origin": [0, 0], "size": [*WHOLE], "shows": "the whole slide"}
    assert plain == {"map.ome.tif": whole, "regions.geojson": whole, "overlay.png": whole}
    regions = cropped.pop("regions.geojson")
    assert cropped == {"map.ome.tif": whole, "overlay.png": whole}
    assert (regions["origin"], regions["size"]) == ([*PLACE], [900, 700])
    assert "openslide.bounds" in regions["shows"]


def test_the_overlay_outlines_what_viewers_show(scored: tuple[Path, Path]) -> None:
    cropped, plain = (cv2.imread(str(folder / "overlay.png")).astype(int) for folder in scored)
    drawn = np.abs(cropped - plain).max(axis=2) > 60
    drawn[:60, :120] = False  # the legend
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    scale = cropped.shape[1] / WHOLE[0]
    found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / scale
    assert found == pytest.approx([1500, 1000, 2400, 1700], abs=1.1 / scale)


def test_only_scanned_pixels_are_tissue() -> None:
    slide = ArraySlide(np.zeros((200, 100, 3), np.uint8), 0.5)
    mask = np.ones((20, 10), np.bool_)
    assert keep_scanned(mask, slide).all()
    slide.bounds = Box(20, 55, 61, 200)
    expected = np.zeros_like(mask)
    expected[5:, 2:7] = True
    assert np.array_equal(keep_scanned(mask, slide), expected)
