"""The whole of scoring is held against its parts."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from glassrt.benchmarks import reading, slides
from glassrt.engine import open_bundle
from glassrt.engine.backends import open_backend
from glassrt.engine.errors import GlassError, SlideError

GLASSRT = Path(sys.executable).parent / "glassrt"


def silent(name: str) -> None:
    pass


def test_the_command_times_the_whole_and_every_part(demo_slide: Path, tmp_path: Path) -> None:
    figures = tmp_path / "slide.json"
    command = [GLASSRT, "bench", "slide", demo_slide, "--repeats", "2", "--scaling", "--json", figures]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(figures.read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert {"score", "open", "mask", "read and cut", "infer", "stitch", "write"} <= rows.keys()
    scaled = {"threads 1", "threads 2", "readers 1", "readers 2", "readers 4", "areas 1", "areas 4"}
    assert scaled <= rows.keys()
    assert all(min(row["runs"]) > 0 for row in rows.values())
    assert report["windows"] == 50
    whole = sorted(rows["score"]["runs"])[0]
    assert rows["infer"]["runs"][0] < 1.5 * whole
    assert 0.3 < report["share_of_bound"] < 1.5
    assert report["bounded_by"] in ("infer", "read and cut", "stitch", "processor")
    assert rows["areas 4"]["runs"][0] > 1.5 * rows["areas 1"]["runs"][0]
    assert "of the bound" in done.stdout


def test_runs_that_find_other_areas_are_not_timed(demo_slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, number = open_bundle(), iter(range(9))
    scoring = slides.score

    def wander(slide: object, bundle: object, out: object, backend: object, readers: int) -> object:
        result = scoring(slide, bundle, out, backend, readers=readers)
        result.classes.clear()
        result.classes["gland"] = next(number)
        return result

    monkeypatch.setattr(slides, "score", wander)
    with pytest.raises(GlassError, match="two runs gave different areas"):
        slides.measure_slide(demo_slide, bundle, open_backend(bundle), 1, 2, silent)


def test_readers_that_are_there_read_the_same_pixels(demo_slide: Path) -> None:
    report = reading.measure_reading(demo_slide, 1, (1, 2))
    names = {row["name"].split(",")[0] for row in report["rows"]}
    assert names >= {"GlassRT", "OpenSlide", "tiffslide", "pyvips"}
    assert len(report["rows"]) == 4 * len(names)
    for row in report["rows"]:
        assert row["mpix_per_s"] > 1
        assert row["difference"] <= (0 if row["name"].startswith("OpenSlide") else 2)


def test_windows_to_read_do_not_overlap(demo_slide: Path) -> None:
    placed = reading.lay_windows(demo_slide)
    for corners in placed.values():
        assert len(corners) >= 8
        for index, (x, y) in enumerate(corners):
            assert all(max(abs(x - u), abs(y - v)) >= reading.WINDOW for u, v in corners[:index])
    assert all(x % 240 == y % 240 == 0 for x, y in placed["tile-aligned"])
    assert all(x % 240 and y % 240 for x, y in placed["random"])


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
