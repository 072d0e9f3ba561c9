"""The most suspicious regions of maps that are known."""

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from made_results import make_result, write_result
from numpy.typing import NDArray
from shapely.geometry import Polygon

from glassrt.engine.bundles.parts import ClassInfo
from glassrt.engine.errors import UsageError
from glassrt.engine.files import readable_json
from glassrt.engine.maps.mapfile import NOT_ANALYSED, MapFile
from glassrt.engine.results.figures import Result, SlideScoresResult
from glassrt.engine.results.ometiff import write_map
from glassrt.engine.results.origin import RESULT
from glassrt.engine.results.scored import Scored, read_scored
from glassrt.engine.results.suspects import find_suspects, rank_suspects
from glassrt.engine.slides.frames import Frame

MPP, BASE = 2.0, 4


def lay(results: Path, name: str, *planes: NDArray[np.uint8], of: str | None = None) -> Scored:
    """The results of a slide whose map has these probabilities, in 255ths; each of its pixels is four of the slide's
    to a side.
    """
    height, width = planes[0].shape
    names = [f"class {number}" for number in range(1, len(planes) + 1)]
    infos = [ClassInfo(each, (0, 0, 0)) for each in ("other", *names)]
    write_result(results, Path(f"/scans/{name}.svs"))
    with MapFile(results / name / "map.raw", len(infos), height, width) as map_file:
        map_file.write_rows(0, np.stack([np.full_like(planes[0], NOT_ANALYSED), *planes]))
        write_map(results / name / "map.ome.tif", map_file, infos, MPP)
    made = make_result(Path(f"/scans/{name}.svs"), tuple(names))
    result = msgspec.structs.replace(
        made,
        slide={**made.slide, "size": (BASE * width, BASE * height), "mpp": MPP / BASE},
        map={"mpp": MPP, "size": (width, height)},
        frame={"regions.geojson": Frame((0, 0), (BASE * width, BASE * height), "")},
        slide_scores=SlideScoresResult(of, 5.0, 0.0, 0.0, 0.0) if of else None,
    )
    (results / name / RESULT).write_bytes(readable_json(result))
    (scored,) = read_scored(results, [name])
    return scored


def smooth(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Probabilities with many hills."""
    noise = np.random.default_rng(seed).normal(0, 1, (height, width)).astype(np.float32)
    hills = cv2.GaussianBlur(noise, None, 6)
    return np.rint(255 / (1 + np.exp(-12 * hills / hills.std() / 3))).astype(np.uint8)


@pytest.mark.parametrize("shape", [(40, 30), (512, 512), (700, 1100)])
def test_regions_are_those_of_the_whole_map_at_once(tmp_path: Path, shape: tuple[int, int]) -> None:
    probability = smooth(*shape)
    found = list(find_suspects(lay(tmp_path, "a", probability), 10**6, tmp_path))
    count, labels, stats, _ = cv2.connectedComponentsWithStats((probability >= 128).view(np.uint8), connectivity=4)
    assert len(found) == count - 1 > 0
    wanted = []
    for label in range(1, count):
        inside = probability[labels == label]
        wanted.append((int(inside.max()), len(inside), inside.mean() / 255, [*map(int, stats[label, :4])]))
    told = []
    for each in found:
        box, pixels = [each.box.left, each.box.top, *each.box.size], round(each.region.area_um2 / MPP**2)
        told.append((round(255 * each.maximum_probability), pixels, each.region.mean_probability, box))
        assert each.base_box.size == (BASE * box[2], BASE * box[3])
        assert Polygon(each.region.rings[0], each.region.rings[1:]).area >= pixels
    assert sorted(told) == [(*figures, pytest.approx(mean), box) for *figures, mean, box in sorted(wanted)]
    assert [each[:2] for each in told] == sorted((each[:2] for each in told), reverse=True)
    assert not list(tmp_path.glob("*.raw"))


def test_where_nothing_is_likely_the_peaks_are_suspected(tmp_path: Path) -> None:
    probability = np.zeros((60, 80), np.uint8)
    probability[5:8, 5:9], probability[30:40, 30:40], probability[50:52, 70:75] = 100, 89, 90
    found = list(find_suspects(lay(tmp_path, "a", probability), 9, tmp_path))
    assert [(round(255 * each.maximum_probability), each.region.area_um2) for each in found] == [(100, 48), (90, 40)]
    assert list(find_suspects(lay(tmp_path, "b", np.zeros((60, 80), np.uint8)), 9, tmp_path)) == []


def test_slides_share_the_ranks(tmp_path: Path) -> None:
    """By the highest probability, then by area; a slide without anything likely comes last."""
    maps = {name: np.zeros((50, 50), np.uint8) for name in "abc"}
    maps["a"][2:4, 2:4], maps["a"][20:30, 20:30] = 250, 200
    maps["b"][10:20, 10:20] = 250
    maps["c"][30:33, 30:33] = 60
    slides = [lay(tmp_path, name, probability) for name, probability in maps.items()]
    ranked = [(each.scored.folder.name, each.region.area_um2) for each in rank_suspects(slides, 9, tmp_path)]
    assert ranked == [("b", 400), ("a", 16), ("a", 400), ("c", 36)]
    assert [each.scored.folder.name for each in rank_suspects(slides, 2, tmp_path)] == ["b", "a"]


@pytest.mark.parametrize(("of", "column"), [(None, 3), ("class 2", 13)])
def test_the_class_is_the_one_that_slides_were_scored_for_or_the_first(
    tmp_path: Path, of: str | None, column: int
) -> None:
    first, second = np.zeros((2, 20, 20), np.uint8)
    first[3, 3], second[3, 13] = 200, 200
    (found,) = find_suspects(lay(tmp_path, "a", first, second, of=of), 9, tmp_path)
    assert found.box.left == column


@pytest.mark.parametrize("damage", ["cut", "bytes", "gone", "other"])
def test_a_map_that_is_damaged_is_told_in_a_line(tmp_path: Path, damage: str) -> None:
    scored = lay(tmp_path, "a", smooth(600, 600))
    path = tmp_path / "a" / "map.ome.tif"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "bytes":
        middle = len(content) // 3
        content[middle : middle + 20_000] = b"\xff" * 20_000
        path.write_bytes(content)
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes((lay(tmp_path, "b", smooth(60, 60)).folder / "map.ome.tif").read_bytes())
    with pytest.raises(UsageError, match=r"map\.ome\.tif cannot be read \(.*\): score the slide again") as caught:
        rank_suspects([scored], 9, tmp_path)
    assert "\n" not in str(caught.value)


def test_only_results_of_the_slides_asked_for_are_read(tmp_path: Path) -> None:
    lay(tmp_path, "a", smooth(20, 20))
    write_result(tmp_path, Path("/scans/b.svs"))
    assert [each.folder.name for each in read_scored(tmp_path, ["a", "none"])] == ["a"]
    for content in (None, b"{}", b"\xff"):  # that of a result without its map's size, and what is none
        if content is not None:
            (tmp_path / "b" / RESULT).write_bytes(content)
        with pytest.raises(UsageError, match=r"b/result\.json is damaged or of another version"):
            list(read_scored(tmp_path, ["b"]))


def test_a_result_is_read_back_as_it_was(tmp_path: Path) -> None:
    scored = lay(tmp_path, "a", smooth(20, 20), of="class 1")
    assert isinstance(scored.result, Result)
    assert (scored.map_size, scored.base_size, scored.origin) == ((20, 20), (80, 80), (0, 0))
