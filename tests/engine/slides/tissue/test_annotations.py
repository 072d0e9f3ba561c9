"""Masks that people made: images and GeoJSON, good ones and bad ones."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from glassrt.engine.errors import SlideError, UsageError
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.slide import lay_levels
from glassrt.engine.slides.tissue.annotations import check_tissue, choose_mask, read_mask

SLIDE = ArraySlide(np.full((600, 1000, 3), 240, np.uint8), 2.0)
SQUARE = [[100, 200], [500, 200], [500, 400], [100, 400], [100, 200]]
HOLE = [[200, 250], [200, 350], [300, 350], [300, 250], [200, 250]]
SMALL = [[800, 100], [900, 100], [900, 200], [800, 200], [800, 100]]


def feature(kind: str, coordinates: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": "8b1f",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"objectType": "annotation", "classification": {"name": "Tissue", "color": [200, 0, 0]}},
    }


POLYGON, MANY = feature("Polygon", [SQUARE, HOLE]), feature("MultiPolygon", [[SQUARE, HOLE], [SMALL]])
WITH_HOLE_MM2 = (400 * 200 - 100 * 100) * 4e-6


def marked_mm2(mask: np.ndarray) -> float:
    return float(mask.mean() * 600 * 1000 * 4e-6)


@pytest.mark.parametrize(
    ("content", "mm2"),
    [
        ({"type": "FeatureCollection", "features": [POLYGON]}, WITH_HOLE_MM2),
        ({"type": "FeatureCollection", "features": [MANY, POLYGON]}, WITH_HOLE_MM2 + 0.04),
        ([feature("Polygon", [SMALL]), POLYGON], WITH_HOLE_MM2 + 0.04),
        (MANY, WITH_HOLE_MM2 + 0.04),
        (POLYGON["geometry"], WITH_HOLE_MM2),
        ({"type": "GeometryCollection", "geometries": [POLYGON["geometry"]]}, WITH_HOLE_MM2),
    ],
    ids=["collection", "overlapping", "list", "multi", "geometry", "geometries"],
)
def test_geojson_marks_what_it_outlines(tmp_path: Path, content: Any, mm2: float) -> None:
    (tmp_path / "a.geojson").write_text(json.dumps(content))
    mask = read_mask(tmp_path / "a.geojson", SLIDE)
    assert marked_mm2(mask) == pytest.approx(mm2, rel=0.02)
    across, down = mask.shape[1] / 1000, mask.shape[0] / 600
    assert mask[int(300 * down), int(150 * across)]
    assert not mask[int(300 * down), int(250 * across)]


class Large(ArraySlide):
    """A slide of a common size, of which no pixels are needed."""

    def __init__(self) -> None:
        super().__init__(np.zeros((1, 1, 3), np.uint8), 0.25)
        self.levels = lay_levels([(100_000, 80_000)])


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


@pytest.mark.parametrize(("side", "apart", "within"), [(800, 4000, 0.01), (80, 1700, 0.02), (24, 1700, 0.05)])
@pytest.mark.parametrize("holes", [False, True], ids=["squares", "holes"])
def test_small_outlines_and_holes_have_their_areas(
    tmp_path: Path, side: int, apart: int, within: float, holes: bool
) -> None:
    """Of 200, 20 and 6 micrometres, on a mask of 5.5 micrometres a pixel."""
    squares = [
        square(apart * column + 33.3, apart * row + 71.7, side)
        for column in range(100_000 // apart)
        for row in range(80_000 // apart)
    ]
    whole = [[0, 0], [100_000, 0], [100_000, 80_000], [0, 80_000]]
    polygons = [[whole, *squares]] if holes else [[each] for each in squares]
    (tmp_path / "a.geojson").write_text(json.dumps(feature("MultiPolygon", polygons)))
    mask = read_mask(tmp_path / "a.geojson", Large())
    found = float((~mask if holes else mask).mean()) * 100_000 * 80_000
    assert found == pytest.approx(len(squares) * side**2, rel=within)


def test_what_is_drawn_is_what_has_its_centre_within(tmp_path: Path) -> None:
    corners = np.random.default_rng(3).uniform((0, 0), (1000, 600), (40, 2))
    (tmp_path / "a.geojson").write_text(json.dumps(feature("Polygon", [corners.tolist()])))
    x, y = np.meshgrid(np.arange(1000) + 0.5, np.arange(600) + 0.5)
    inside = np.zeros(x.shape, np.bool_)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        inside ^= ((y0 <= y) != (y1 <= y)) & (x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x)
    assert np.array_equal(read_mask(tmp_path / "a.geojson", SLIDE), inside)


def test_a_thin_outline_is_marked(tmp_path: Path) -> None:
    thin = [[100, 100], [900, 100], [900, 100.5], [100, 100.5], [100, 100]]
    (tmp_path / "a.geojson").write_text(json.dumps(feature("Polygon", [thin])))
    assert read_mask(tmp_path / "a.geojson", SLIDE).any(axis=0).sum() >= 800


@pytest.mark.parametrize(
    "classification", [{"name": "Ignore*", "color": [1, 2, 3]}, {"names": ["Tissue", "Pen*"]}, "Ignore*"]
)
def test_what_qupath_ignores_is_no_tissue(tmp_path: Path, classification: Any) -> None:
    ignored = {**feature("Polygon", [SMALL]), "properties": {"classification": classification}}
    (tmp_path / "a.geojson").write_text(json.dumps([ignored, POLYGON]))
    assert marked_mm2(read_mask(tmp_path / "a.geojson", SLIDE)) == pytest.approx(WITH_HOLE_MM2)
    (tmp_path / "a.geojson").write_text(json.dumps([ignored]))
    with pytest.raises(SlideError, match="all that it holds is of classes that QuPath ignores, whose names"):
        read_mask(tmp_path / "a.geojson", SLIDE)


@pytest.mark.parametrize("properties", [None, 3, {}, {"classification": None}, {"classification": {"name": 7}}])
def test_tissue_needs_no_class(tmp_path: Path, properties: Any) -> None:
    (tmp_path / "a.geojson").write_text(json.dumps([{**POLYGON, "properties": properties}]))
    assert marked_mm2(read_mask(tmp_path / "a.geojson", SLIDE)) == pytest.approx(WITH_HOLE_MM2)


def test_outlines_are_placed_from_the_origin_that_viewers_show(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text(json.dumps(feature("Polygon", [[[0, 0], [100, 0], [100, 50], [0, 50]]])))
    mask = read_mask(tmp_path / "a.geojson", SLIDE, (300, 400), (400, 150))
    rows, columns = np.nonzero(mask)
    assert (columns.min() / mask.shape[1], rows.min() / mask.shape[0]) == pytest.approx((0.3, 400 / 600), abs=0.01)
    assert marked_mm2(mask) == pytest.approx(100 * 50 * 4e-6, rel=0.06)


@pytest.mark.parametrize("size", [(1000, 600), (100, 60), (333, 200), (3000, 1800)])
@pytest.mark.parametrize("kind", ["grey.png", "colour.png", "alpha.png", "8.tif", "16.tiff", "bool.tif"])
def test_mask_images_of_any_size_mark_what_is_not_zero(tmp_path: Path, size: tuple[int, int], kind: str) -> None:
    truth = np.zeros((size[1], size[0]), np.uint8)
    truth[: size[1] // 2, size[0] // 3 :] = 1
    path = tmp_path / kind
    if kind == "grey.png":
        cv2.imwrite(str(path), truth)
    elif kind == "colour.png":
        cv2.imwrite(str(path), np.stack([truth * 0, truth * 200, truth * 0], -1))
    elif kind == "alpha.png":  # red throughout, but see-through outside
        cv2.imwrite(str(path), np.stack([truth * 0, truth * 0, truth * 0 + 200, truth * 255], -1))
    else:
        tifffile.imwrite(path, truth.astype({"8.tif": "u1", "16.tiff": "u2", "bool.tif": "?"}[kind]))
    assert np.array_equal(read_mask(path, SLIDE), truth > 0)


def polygon_of(*points: Any) -> str:
    return json.dumps(feature("Polygon", [list(points)]))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.geojson", "", "not GeoJSON"),
        ("a.geojson", "{", "not GeoJSON"),
        ("a.geojson", "[" * 100_000, "not GeoJSON"),
        ("a.geojson", "7", "holds something without a type"),
        ("a.geojson", "{}", "holds something without a type"),
        ("a.geojson", '{"type": 3}', "holds something without a type"),
        ("a.geojson", '{"type": "FeatureCollection", "features": []}', "marks no tissue"),
        ("a.geojson", "[]", "marks no tissue"),
        ("a.geojson", json.dumps(feature("Point", [1, 2])), "holds Point; areas of tissue are Polygon"),
        ("a.geojson", json.dumps(feature("Polygon", None)), "no"),
        ("a.geojson", json.dumps(feature("MultiPolygon", 4)), "without coordinates"),
        ("a.geojson", json.dumps(feature("Polygon", [])), "without rings"),
        ("a.geojson", polygon_of([1, 1], [2, 2]), "at least three points"),
        ("a.geojson", polygon_of([1, 1], [2, 2], ["a", 3]), "at least three points"),
        ("a.geojson", polygon_of([1, 1], [2, 2], [3]), "at least three points"),
        ("a.geojson", polygon_of([1, 1], [1e400, 2], [3, 3]), "not GeoJSON|at least three points"),
        ("a.geojson", polygon_of([1, 1], [1200, 2], [3, 3]), "x 1200, y 2 lies outside the slide's 1000 x 600"),
        ("a.geojson", polygon_of([-9, 1], [100, 2], [3, 3]), "x -9, y 1 lies outside"),
        ("a.png", "no image", "not a readable mask image"),
        ("a.tif", "no image", "not a readable mask image"),
        ("a.jpg", "", "ends in one of .png, .tif"),
        ("none.png", None, "cannot be read"),
        ("none.geojson", None, "cannot be read"),
    ],
)
def test_a_mask_that_is_none_is_refused_in_one_line(tmp_path: Path, name: str, content: str, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SlideError, match=says) as caught:
        read_mask(tmp_path / name, SLIDE)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (np.ones((100, 100), np.uint8), "another shape than the slide's 1000 x 600"),
        (np.ones((1000, 600), np.uint8), "another shape"),
        (np.zeros((600, 1000), np.uint8), "marks no tissue: every pixel is 0"),
        (np.ones((600, 1000), np.float32), r"expected whole numbers \[H, W\]"),
    ],
)
def test_a_mask_image_that_does_not_fit_is_refused(tmp_path: Path, pixels: np.ndarray, says: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    with pytest.raises(SlideError, match=says):
        read_mask(tmp_path / "a.tif", SLIDE)


@pytest.mark.parametrize("sides", [(2**31 - 1, 2**31 - 1), (70_000, 70_000), (0, 5)])
def test_a_png_that_claims_too_much_is_refused_before_it_is_decoded(tmp_path: Path, sides: tuple[int, int]) -> None:
    content = bytearray(cv2.imencode(".png", np.ones((6, 10), np.uint8))[1].tobytes())
    content[16:24] = sides[0].to_bytes(4, "big") + sides[1].to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(SlideError, match=r"too many for a mask|not a readable mask image"):
        read_mask(tmp_path / "a.png", SLIDE)


def test_a_folder_holds_a_mask_of_each_slide(tmp_path: Path) -> None:
    for name in ("a.png", "b.geojson", "c.tif", "c.png"):
        (tmp_path / name).touch()
    assert choose_mask(str(tmp_path), Path("x/a.svs")) == tmp_path / "a.png"
    assert choose_mask(str(tmp_path), Path("x/b.svs")) == tmp_path / "b.geojson"
    assert choose_mask("all", Path("x/b.svs")) == "all"
    with pytest.raises(SlideError, match=r"holds both c.png and c.tif"):
        choose_mask(str(tmp_path), Path("x/c.svs"))
    with pytest.raises(SlideError, match=r"holds no mask called d.geojson or .png"):
        choose_mask(str(tmp_path), Path("x/d.svs"))
    with pytest.raises(UsageError, match="one mask fits one slide"):
        check_tissue(str(tmp_path / "a.png"), [Path("a"), Path("b")])
    with pytest.raises(UsageError, match=r"not auto or all, nor a mask or folder that exists"):
        check_tissue("al", [Path("a")])


def test_a_picture_is_no_mask(tmp_path: Path, demo_slide: Path) -> None:
    """Next to no pixel of a photograph is 0, so all of it would count as tissue."""
    with open_slide(demo_slide) as slide:
        pixels = slide.read_level(0, (0, 0), (600, 360))
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    with pytest.raises(SlideError, match=r"a\.png: a picture of more than 256 colours, not a mask"):
        read_mask(tmp_path / "a.png", ArraySlide(pixels, 2.0))
    labels = np.stack([np.zeros((360, 600), np.uint8)] * 3, axis=-1)
    labels[:180, :300] = 200, 0, 0
    cv2.imwrite(str(tmp_path / "b.png"), labels)
    assert read_mask(tmp_path / "b.png", ArraySlide(pixels, 2.0)).mean() == 0.25


def test_a_slide_is_not_its_own_mask(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((300, 400, 3), (200, 190, 210), np.uint8))
    (tmp_path / "b.png").symlink_to("a.png")
    with open_slide(tmp_path / "a.png", 0.5) as slide, pytest.raises(SlideError, match="is the slide itself"):
        read_mask(tmp_path / "b.png", slide)


def test_an_empty_name_is_no_folder_of_masks() -> None:
    with pytest.raises(UsageError, match="--tissue '': not auto or all"):
        check_tissue("", [Path("a.svs")])
