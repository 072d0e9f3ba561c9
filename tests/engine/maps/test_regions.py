import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from shapely.geometry import Polygon
from shapely.geometry.polygon import LinearRing

from glassrt.engine.maps.mapfile import NOT_ANALYSED, MapFile
from glassrt.engine.maps.regions import Region, find_regions

Bytes = NDArray[np.uint8]
MakeMap = Callable[[Bytes], MapFile]


@pytest.fixture
def make_map(tmp_path: Path) -> Iterator[MakeMap]:
    """A map file of a class map with random probabilities."""
    made: list[MapFile] = []

    def make(classes: Bytes) -> MapFile:
        map_file = MapFile(tmp_path / f"map{len(made)}.raw", 3, *classes.shape)
        made.append(map_file)
        probabilities = np.random.default_rng(0).integers(0, 256, (2, *classes.shape), dtype=np.uint8)
        map_file.write_rows(0, np.concatenate([classes[None], probabilities]))
        return map_file

    yield make
    for map_file in made:
        map_file.close()


def draw(text: str) -> Bytes:
    """A class map from lines of digits; `.` is class 0, `?` not analysed."""
    value = {".": 0, "?": NOT_ANALYSED}
    return np.array([[value.get(c) if c in value else int(c) for c in line] for line in text.split()], np.uint8)


def random_classes(seed: int) -> Bytes:
    """Blobs of two classes with everything that is awkward: holes, islands, corners, single pixels."""
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 40, 2)
    smooth = cv2.GaussianBlur(random.random((height, width)), (0, 0), random.choice([0.3, 0.8, 1.5]))
    classes = np.digitize(smooth, [0.45, 0.55]).astype(np.uint8)
    classes[smooth < 0.35] = NOT_ANALYSED
    return classes


def facts(region: Region) -> tuple[int, float, float, frozenset[bytes]]:
    """What must not depend on how the map was cut into bands; a ring may begin anywhere."""
    rings = frozenset(np.sort(ring.view(np.complex128).ravel()).tobytes() for ring in region.rings)
    return region.class_index, round(region.area_um2, 9), round(region.mean_probability, 12), rings


@pytest.mark.parametrize("seed", range(40))
def test_bands_do_not_change_what_is_found(make_map: MakeMap, seed: int) -> None:
    map_file = make_map(random_classes(seed))
    whole = sorted(map(facts, find_regions(map_file, 1.5)), key=repr)
    for rows in (1, 2, 5):
        banded = find_regions(map_file, 1.5, band_pixels=rows * map_file.width)
        assert sorted(map(facts, banded), key=repr) == whole


@pytest.mark.parametrize("seed", range(40))
def test_regions_are_the_components_and_their_polygons_are_valid(make_map: MakeMap, seed: int) -> None:
    classes = random_classes(seed)
    map_file = make_map(classes)
    regions = list(find_regions(map_file, 1.0, band_pixels=3 * map_file.width))
    for index in (1, 2):
        count, _, stats, _ = cv2.connectedComponentsWithStats((classes == index).view(np.uint8), connectivity=4)
        areas = [region.area_um2 for region in regions if region.class_index == index]
        assert sorted(areas) == sorted(stats[1:count, cv2.CC_STAT_AREA].tolist())
        weight = sum(area * r.mean_probability for area, r in zip(areas, of_class(regions, index), strict=True))
        assert weight == pytest.approx(map_file.read(index, 0, map_file.height)[classes == index].sum() / 255)
    for region in regions:
        polygon = Polygon(region.rings[0], region.rings[1:])
        assert polygon.is_valid
        assert polygon.area >= region.area_um2
        # GeoJSON's counter-clockwise is that of x and y, whichever way y points on a screen.
        assert [LinearRing(ring).is_ccw for ring in region.rings] == [True] + [False] * (len(region.rings) - 1)


def of_class(regions: list[Region], index: int) -> Iterator[Region]:
    return (region for region in regions if region.class_index == index)


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        ("11.11 1...1 11111", [(1, 11)]),  # a U: two until the last row
        ("1.1.1 1.1.1 11111", [(1, 11)]),
        ("11111 1.1.1 1.1.1", [(1, 11)]),
        ("1112222 1112222", [(1, 6), (2, 8)]),
        ("111??? ??????", [(1, 3)]),
        ("??? ???", []),
        ("... ...", []),
        ("222 212 222", [(1, 1), (2, 8)]),
        ("1", [(1, 1)]),
    ],
)
@pytest.mark.parametrize("band_pixels", [1, 10_000])
def test_drawn_regions_are_found(
    make_map: MakeMap, picture: str, found: list[tuple[int, int]], band_pixels: int
) -> None:
    regions = find_regions(make_map(draw(picture)), 1.0, band_pixels=band_pixels)
    assert sorted((region.class_index, region.area_um2) for region in regions) == found


def test_touching_glands_of_one_class_are_one_region_with_a_hole_where_they_enclose_one(
    data: Path, make_map: MakeMap
) -> None:
    mask = cv2.imread(str(data / "glas" / "train_1_anno.bmp"), cv2.IMREAD_UNCHANGED)
    classes = (mask > 0).astype(np.uint8)
    apart = len(list(find_regions(make_map(classes), 1.0)))
    classes[[0, -1]] = classes[:, [0, -1]] = 1  # a frame that joins what the picture's border cuts
    frame, *others = sorted(find_regions(make_map(classes), 1.0), key=lambda region: -len(region.rings))
    assert len(others) < apart
    polygon = Polygon(frame.rings[0], frame.rings[1:])
    assert polygon.is_valid
    assert polygon.bounds == (0, 0, classes.shape[1], classes.shape[0])
    assert sum(region.area_um2 for region in (frame, *others)) == classes.sum()


SPECKS = """
import sys
from pathlib import Path
import numpy as np
from glassrt.engine.maps.mapfile import MapFile
from glassrt.engine.maps.regions import find_regions

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

with MapFile(Path(sys.argv[1]), 2, 4000, 4000) as map_file:
    rows = np.zeros((2, 400, 4000), np.uint8)
    rows[:, ::4, ::4] = 1
    for top in range(0, 4000, 400):
        map_file.write_rows(top, rows)
    before = peak()
    found = sum(1 for _ in find_regions(map_file, 1.0, smallest_um2=2, band_pixels=400_000))
    print(found, (peak() - before) // 1024)
"""


TOUCHING = """
import sys
from pathlib import Path
import numpy as np
from glassrt.engine.maps.mapfile import MapFile
from glassrt.engine.maps.regions import find_regions

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

with MapFile(Path(sys.argv[1]), 2, 4000, 4000, contour_of=1) as map_file:
    rows = np.full((3, 40, 4000), 255, np.uint8)
    rows[0] = 1
    rows[2] = 0
    rows[2, :4] = rows[2, :, ::40] = 255
    for top in range(0, 4000, 40):
        map_file.write_rows(top, rows)
    before = peak()
    found = sum(1 for _ in find_regions(map_file, 1.0, smallest_um2=2))
    print(found, (peak() - before) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_parting_a_region_takes_30_bytes_a_pixel_of_its_box(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TOUCHING, str(tmp_path / "map.raw")]
    found, grown_mb = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert found == 100 * 100
    assert grown_mb < 30 * 16


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_specks_take_no_more_memory_than_a_band(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SPECKS, str(tmp_path / "map.raw")]
    found, grown_mb = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert found == 0
    assert grown_mb < 150
