import errno
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray
from shapely.geometry import Polygon, shape
from shapely.geometry.polygon import LinearRing

from glassrt.engine.bundles.parts import ClassInfo
from glassrt.engine.maps.mapfile import NOT_ANALYSED, MapFile
from glassrt.engine.maps.regions import find_regions
from glassrt.engine.results.geojson import write_regions
from glassrt.engine.results.ometiff import write_map
from glassrt.engine.results.overlay import draw_overlay, write_png

CLASSES = (ClassInfo("other", (200, 200, 200)), ClassInfo("gland", (30, 120, 220)))
MakeMap = Callable[[NDArray[np.uint8]], MapFile]


@pytest.fixture
def make_map(tmp_path: Path) -> Iterator[MakeMap]:
    """A map file of a class map; the probability of class 1 is 200 / 255 where it is."""
    made: list[MapFile] = []

    def make(classes: NDArray[np.uint8]) -> MapFile:
        map_file = MapFile(tmp_path / f"map{len(made)}.raw", 2, *classes.shape)
        map_file.write_rows(0, np.stack([classes, np.where(classes == 1, 200, 0).astype(np.uint8)]))
        made.append(map_file)
        return map_file

    yield make
    for map_file in made:
        map_file.close()


def draw(text: str) -> NDArray[np.uint8]:
    """A class map from lines of `.` and `#`."""
    return np.array([[character == "#" for character in line] for line in text.split()], np.uint8)


def glas_classes(data: Path, name: str) -> NDArray[np.uint8]:
    mask = cv2.imread(str(data / "glas" / f"{name}_anno.bmp"), cv2.IMREAD_UNCHANGED)
    return (mask > 0).astype(np.uint8)


@pytest.mark.parametrize(
    ("picture", "areas", "holes"),
    [
        ("#", [1], [0]),
        ("##. ##. ...", [4], [0]),
        ("### #.# ###", [8], [1]),
        ("##.## ##.##", [4, 4], [0, 0]),
        ("#.. .#. ..#", [1, 1, 1], [0, 0, 0]),
        ("##### #...# #.#.# #...# #####", [16, 1], [1, 0]),
        ("#.#.# ##### #.#.#", [11], [0]),
    ],
)
def test_polygons_have_the_area_and_the_holes_of_their_pixels(
    make_map: MakeMap, picture: str, areas: list[int], holes: list[int]
) -> None:
    regions = list(find_regions(make_map(draw(picture)), map_mpp=1.0))
    polygons = [Polygon(region.rings[0], region.rings[1:]) for region in regions]
    assert sorted(region.area_um2 for region in regions) == sorted(areas)
    assert sorted(polygon.area for polygon in polygons) == sorted(areas)
    assert sorted(len(region.rings) - 1 for region in regions) == sorted(holes)
    assert all(polygon.is_valid for polygon in polygons)
    assert all(region.mean_probability == pytest.approx(200 / 255) for region in regions)


def test_pixels_that_touch_by_a_corner_alone_are_joined_so_that_rings_stay_simple(make_map: MakeMap) -> None:
    (region,) = find_regions(make_map(draw("##.. #.#. ###. ....")), map_mpp=1.0)
    polygon = Polygon(region.rings[0], region.rings[1:])
    assert polygon.is_valid
    assert region.area_um2 <= polygon.area <= region.area_um2 + 1


@pytest.mark.parametrize("name", ["train_1", "train_37", "testA_9"])
@pytest.mark.parametrize("band_pixels", [1, 50_000, 10_000_000])
def test_real_glands_come_back_from_their_polygons_whatever_the_bands(
    data: Path, make_map: MakeMap, name: str, band_pixels: int
) -> None:
    classes = glas_classes(data, name)
    count = cv2.connectedComponents(classes, connectivity=4)[0]
    regions = list(find_regions(make_map(classes), 2.0, band_pixels=band_pixels))
    assert len(regions) == count - 1
    assert sum(region.area_um2 for region in regions) == classes.sum() * 4
    drawn = np.zeros(classes.shape, np.uint8)
    for region in regions:
        assert Polygon(region.rings[0], region.rings[1:]).is_valid
        for x, y, value in fill(region.rings, classes.shape):
            drawn[y, x] = value
    assert (drawn != classes).mean() < 1e-4  # corners that were filled


def fill(rings: tuple[NDArray[np.float64], ...], size: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
    """The pixels inside a polygon by the even-odd rule along each row of pixel centres."""
    for y in range(size[0]):
        crossings = []
        for ring in rings:
            for (x0, y0), (_, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                if min(y0, y1) < y + 0.5 < max(y0, y1):
                    crossings.append(x0)
        crossings.sort()
        for start, end in zip(crossings[::2], crossings[1::2], strict=True):
            for x in range(int(start), int(end)):
                yield x, y, 1


def test_small_regions_are_dropped(make_map: MakeMap) -> None:
    map_file = make_map(draw("###.# ###.. ....#"))
    assert [region.area_um2 for region in find_regions(map_file, 2.0, smallest_um2=8)] == [24]


def test_geojson_is_what_qupath_reads(make_map: MakeMap, tmp_path: Path) -> None:
    map_file = make_map(draw("....... .#####. .#...#. .#...#. .#####. ......."))
    counts = write_regions(tmp_path / "r.geojson", find_regions(map_file, 2.0), CLASSES, (4.0, 5.0))
    assert counts == [0, 1]
    (feature,) = json.loads((tmp_path / "r.geojson").read_text())["features"]
    polygon = shape(feature["geometry"])
    assert polygon.is_valid
    assert polygon.bounds == (4, 5, 24, 25)
    assert polygon.area == 14 * 20
    outline, hole = (np.array(ring) for ring in feature["geometry"]["coordinates"])
    assert np.array_equal(outline[0], outline[-1])
    assert np.array_equal(hole[0], hole[-1])
    assert LinearRing(outline).is_ccw
    assert not LinearRing(hole).is_ccw
    assert feature["properties"]["classification"] == {"name": "gland", "color": [30, 120, 220]}
    assert feature["properties"]["objectType"] == "annotation"
    assert feature["properties"]["measurements"]["Area um^2"] == 14 * 4


def test_geojson_without_regions_is_an_empty_collection(make_map: MakeMap, tmp_path: Path) -> None:
    write_regions(tmp_path / "r.geojson", find_regions(make_map(np.zeros((5, 5), np.uint8)), 1.0), CLASSES, (1, 1))
    assert json.loads((tmp_path / "r.geojson").read_text()) == {"type": "FeatureCollection", "features": []}


def test_the_map_is_a_pyramidal_ome_tiff_with_physical_size(data: Path, make_map: MakeMap, tmp_path: Path) -> None:
    classes = np.tile(glas_classes(data, "train_1"), (3, 3))
    classes[:100] = NOT_ANALYSED
    map_file = make_map(classes)
    path = tmp_path / "map.ome.tif"
    write_map(path, map_file, CLASSES, 2.48)
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        assert series.axes == "CYX"
        assert np.array_equal(series.asarray()[0], classes)
        assert np.array_equal(series.asarray()[1], map_file.read(1, 0, map_file.height))
        assert [level.shape[1:] for level in series.levels] == [(1566, 2325), (783, 1163), (392, 582), (196, 291)]
        assert np.array_equal(series.levels[1].asarray()[0], classes[::2, ::2])
        assert file.pages[0].is_tiled
        assert file.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
    assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeXUnit"], pixels["SizeC"]) == (2.48, "µm", 2)
    assert (pixels["PhysicalSizeY"], pixels["DimensionOrder"], pixels["Type"]) == (2.48, "XYCZT", "uint8")
    assert [channel["Name"] for channel in pixels["Channel"]] == ["class", "p(gland)"]
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == (2325, 1566)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(2.48)


def test_the_overlay_shows_glands_in_their_colour_and_greys_what_was_not_analysed(
    make_map: MakeMap, tmp_path: Path
) -> None:
    classes = np.zeros((100, 150), np.uint8)
    classes[:, :50], classes[20:80, 80:130] = NOT_ANALYSED, 1
    thumbnail = np.full((400, 600, 3), 240, np.uint8)
    write_png(tmp_path / "o.png", draw_overlay(thumbnail, make_map(classes), CLASSES))
    picture = cv2.imread(str(tmp_path / "o.png"), cv2.IMREAD_COLOR_RGB)
    assert picture.shape == thumbnail.shape
    assert picture[200, 420].tolist() == [156, 192, 232]  # 60 % slide, 40 % class colour
    assert tuple(picture[200, 320]) == CLASSES[1].color
    assert picture[200, 270].tolist() == [240, 240, 240]
    assert picture[350, 100].tolist() == [220, 220, 220]


def test_a_map_larger_than_the_thumbnail_is_shown_where_it_lies(make_map: MakeMap, tmp_path: Path) -> None:
    classes = np.zeros((900, 1300), np.uint8)
    classes[300:600, 650:] = 1
    write_png(tmp_path / "o.png", draw_overlay(np.full((90, 130, 3), 240, np.uint8), make_map(classes), CLASSES))
    picture = cv2.imread(str(tmp_path / "o.png"), cv2.IMREAD_COLOR_RGB)
    tinted = (picture[:, 100] != 240).any(axis=1)
    assert np.flatnonzero(tinted).tolist() == list(range(29, 61))  # 30 to 59, and the line around it


LARGE_MAP = """
import sys
from pathlib import Path
import numpy as np
from glassrt.engine.bundles.parts import ClassInfo
from glassrt.engine.maps.mapfile import MapFile
from glassrt.engine.results.ometiff import write_map

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

folder = Path(sys.argv[1])
with MapFile(folder / "map.raw", 2, 20000, 20000) as map_file:
    slope = np.add.outer(np.arange(50), np.arange(20000)) // 79
    rows = np.stack([slope % 256 > 127, slope % 256]).astype(np.uint8)
    for top in range(0, 20000, 50):
        map_file.write_rows(top, rows)
    before = peak()
    write_map(folder / "map.ome.tif", map_file, [ClassInfo("other", (0, 0, 0)), ClassInfo("gland", (9, 9, 9))], 2.0)
    print((peak() - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_a_large_map_is_written_in_bounded_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LARGE_MAP, str(tmp_path)]
    assert int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) < 200
    assert [path.name for path in tmp_path.iterdir()] == ["map.ome.tif"]
    with tifffile.TiffFile(tmp_path / "map.ome.tif") as file:
        levels = file.series[0].levels
        assert [level.shape[1] for level in levels] == [20000, 10000, 5000, 2500, 1250, 625, 313]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from glassrt.engine.bundles.parts import ClassInfo
from glassrt.engine.maps.mapfile import MapFile
from glassrt.engine.files import write_json
from glassrt.engine.results.ometiff import write_map
from glassrt.engine.results.overlay import write_png
from glassrt.engine.results.geojson import write_regions
from glassrt.engine.maps.regions import find_regions

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
classes = [ClassInfo("other", (0, 0, 0)), ClassInfo("gland", (9, 9, 9))]
noise = np.random.default_rng(0).integers(0, 256, (2, 1200, 1200), dtype=np.uint8)
noise[0] //= 128
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with MapFile(folder / "map.raw", 2, 1200, 1200) as map_file:
    map_file.write_rows(0, noise)
    writes = [
        lambda: write_map(folder / "map.ome.tif", map_file, classes, 2.0),
        lambda: write_regions(folder / "r.geojson", find_regions(map_file, 2.0), classes, (1, 1)),
        lambda: write_png(folder / "o.png", noise.reshape(1200, 800, 3)),
        lambda: write_json(folder / "r.json", {"text": "x" * 1_000_000}),
    ]
    surfaced = []
    for write in writes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
        try:
            write()
        except OSError as error:
            surfaced.append(error.errno)
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    print(*surfaced)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file sizes are limited by a POSIX resource limit")
@pytest.mark.parametrize("limit", [0, 5_000, 800_000])
def test_running_out_of_space_surfaces_from_every_writer(tmp_path: Path, limit: int) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), str(limit)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert [int(number) for number in output.split()] == [errno.EFBIG] * 4
    assert not list(tmp_path.glob("*.raw"))
