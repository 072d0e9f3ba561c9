"""The whole of scoring is held against its parts."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from made_tiffs import cut_tiles, encode, write_tiles
from plain_network import PSPNET

from glassrt.benchmarks import reading, slides
from glassrt.engine import open_bundle, open_slide, score
from glassrt.engine.errors import GlassError, SlideError
from glassrt.engine.runtimes.open import open_backend

GLASSRT = Path(sys.executable).parent / "glassrt"


def silent(name: str) -> None:
    pass


@pytest.fixture(scope="module")
def part(demo_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the slide with some tissue."""
    with open_slide(demo_slide) as slide:
        pixels = slide.read_level(0, (300, 1100), (1100, 1100))
    tiles = (encode(tile, "jpeg") for tile in cut_tiles(pixels))
    return write_tiles(tmp_path_factory.mktemp("part") / "part.tiff", (1100, 1100), tiles, "jpeg")


def test_the_command_times_the_whole_and_every_part(part: Path, tmp_path: Path) -> None:
    figures = tmp_path / "slide.json"
    command = [GLASSRT, "bench", "slide", part, PSPNET, "--repeats", "1", "--scaling", "--json", figures]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(figures.read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert {"score", "open", "mask", "read and cut", "infer", "stitch", "write"} <= rows.keys()
    assert {case.what for case in slides.CASES} <= rows.keys()
    assert all(min(row["runs"]) > 0 for row in rows.values())
    assert report["windows"] == 15
    assert all(len(row["runs"]) == 1 for row in rows.values())
    assert report["share_of_bound"] == pytest.approx(report["bound_s"] / statistics.median(rows["score"]["runs"]))
    assert report["bounded_by"] in ("infer", "read and cut", "stitch", "processor")
    assert min(rows["its area 4 times"]["runs"]) > min(rows["its area once"]["runs"])
    assert "of the bound" in done.stdout


def test_the_bound_is_set_by_what_takes_longest(part: Path) -> None:
    """Reading that takes five times as long as the network bounds the whole."""
    bundle = open_bundle(PSPNET)
    parts, backend = slides.Parts(), open_backend(bundle)
    seconds = {
        "open": 0.01,
        "mask": 0.1,
        "read and cut": 1.0,
        "infer": 0.2,
        "stitch": 0.05,
        "write": 0.1,
        "score": 1.25,
    }
    parts.wall, parts.cpu = ({part: [each] for part, each in seconds.items()} for _ in range(2))
    with open_slide(part) as slide:
        result = score(slide, bundle, Path(tempfile.mkdtemp(), "out"), backend)
    report = slides.summarise(part, bundle, backend, parts, result, [result.seconds])
    assert report["bounded_by"] == "read and cut"
    assert report["bound_s"] == pytest.approx(0.01 + 0.1 + 1.0 + 0.1)


def test_runs_that_find_other_areas_are_not_timed(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, number = open_bundle(PSPNET), iter(range(9))
    scoring = slides.score

    def wander(slide: object, bundle: object, out: object, backend: object, readers: int) -> object:
        result = scoring(slide, bundle, out, backend, readers=readers)
        result.classes.clear()
        result.classes["gland"] = next(number)
        return result

    monkeypatch.setattr(slides, "score", wander)
    with pytest.raises(GlassError, match="two runs gave different areas"):
        slides.measure_slide(part, bundle, open_backend(bundle), 1, 2, silent)


def test_readers_that_are_there_read_the_same_pixels(demo_slide: Path) -> None:
    report = reading.measure_reading(demo_slide, 1, (1, 2))
    names = {row["name"].split(",")[0] for row in report["rows"]}
    assert names >= {"GlassRT", "OpenSlide", "tiffslide", "pyvips"}
    assert len(report["rows"]) == 4 * len(names)
    for row in report["rows"]:
        assert row["mpix_per_s"] > 1
        assert row["difference"] <= (0 if row["name"].startswith("OpenSlide") else 2)


def test_windows_to_read_do_not_overlap_and_lie_on_tiles_or_off_them(demo_slide: Path) -> None:
    """The demo slide's tiles have 240 pixels."""
    placed = reading.lay_windows(demo_slide)
    for corners in placed.values():
        assert len(corners) >= 4
        for index, (x, y) in enumerate(corners):
            assert all(max(abs(x - u), abs(y - v)) >= reading.WINDOW for u, v in corners[:index])
    across = {kind: {(x + reading.WINDOW - 1) // 240 - x // 240 + 1 for x, _ in placed[kind]} for kind in placed}
    assert across == {"on tiles": {3}, "off tiles": {4}}


def test_a_reader_of_other_pixels_is_not_timed(demo_slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def shifted(path: Path) -> Iterator[reading.Read]:
        with reading.open_ours(path) as read:
            yield lambda x, y: read(x + 8, y)

    monkeypatch.setitem(reading.READERS, "OpenSlide", shifted)
    with pytest.raises(GlassError, match="OpenSlide reads other pixels"):
        reading.check_pixels(demo_slide, "OpenSlide", [(300, 900)])


def test_a_slide_too_small_to_read_windows_from_is_told(data: Path) -> None:
    with pytest.raises(SlideError, match="too few to time reading"):
        reading.lay_windows(data / "slides" / "small_HE_levels.tiff")
