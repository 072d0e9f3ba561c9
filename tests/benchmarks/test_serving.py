"""The benchmark of the server: a real one, and real clients."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import run

from glassrt.benchmarks import serving


@pytest.mark.slow
def test_tiles_and_windows_are_measured_and_right(demo_slide: Path, tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    done = run("bench", "serve", demo_slide, "--parts", "tiles,infer", "--json", tmp_path / "serve.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "serve.json").read_text())
    assert report["infer"]["same"]
    for way in ("shared memory", "body"):
        assert 0 < report["tiles"][way]["p50"] <= report["tiles"][way]["p99"]


@pytest.mark.slow
def test_sessions_leave_nothing_on_the_server(demo_slide: Path, tmp_path: Path) -> None:
    with serving.serve(tmp_path) as server:
        report = serving.measure_sessions(server, demo_slide, count=12, at_once=2)
    assert report["after_all"]["files"] <= report["after_10"]["files"] + 2
    names = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert {"one-0", "one-11", "four-2-1"} <= {*names}
    assert not [name for name in names if name.startswith(".glassrt-")]


def test_an_unknown_part_is_told(demo_slide: Path) -> None:
    done = run("bench", "serve", demo_slide, "--parts", "tiles,nothing")
    assert done.returncode == 2
    assert "'nothing' is none of tiles, infer, sessions" in done.stderr
