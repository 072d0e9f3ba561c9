"""Which slides of a scanner's folder are whole."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from glassrt.engine.production.arrivals import Arrivals
from glassrt.engine.production.entries import SLIDE_SUFFIXES

INDEX = "[HIERARCHICAL]\nINDEXFILE = Index.dat\n[DATAFILE]\nFILE_COUNT = 2\nFILE_0 = Data0.dat\nFILE_1 = Data1.dat\n"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock on."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    return pass_by


def names(found: list[Path]) -> list[str]:
    return [path.name for path in found]


def test_a_slide_is_whole_once_it_has_stood_still(tmp_path: Path, clock: Callable[[float], None]) -> None:
    arrivals, slide = Arrivals(tmp_path, SLIDE_SUFFIXES, 10.0), tmp_path / "day" / "a.svs"
    slide.parent.mkdir()
    slide.write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("no slide")
    assert arrivals.look() == []
    clock(9)
    slide.write_bytes(b"half and more")
    assert arrivals.look() == []
    clock(9)
    assert arrivals.look() == []
    clock(1)
    assert names(arrivals.look()) == ["a.svs"]
    clock(100)
    assert arrivals.look() == []


def test_a_slide_that_is_written_anew_comes_again(tmp_path: Path, clock: Callable[[float], None]) -> None:
    arrivals, slide = Arrivals(tmp_path, SLIDE_SUFFIXES, 10.0), tmp_path / "a.svs"
    slide.write_bytes(b"one")
    arrivals.look()
    clock(10)
    assert names(arrivals.look()) == ["a.svs"]
    slide.write_bytes(b"two")
    os.utime(slide, (5, 5))
    assert arrivals.look() == []
    clock(10)
    assert names(arrivals.look()) == ["a.svs"]


def test_a_mirax_slide_waits_for_its_data(tmp_path: Path, clock: Callable[[float], None]) -> None:
    arrivals, folder = Arrivals(tmp_path, SLIDE_SUFFIXES, 10.0), tmp_path / "a"
    (tmp_path / "a.mrxs").write_bytes(b"")
    arrivals.look()
    clock(10)
    assert arrivals.look() == []  # nothing of it is there
    folder.mkdir()
    for name, content in (("Slidedat.ini", INDEX), ("Index.dat", "x"), ("Data0.dat", "x")):
        (folder / name).write_text(content, encoding="utf-8-sig")
        arrivals.look()
        clock(10)
        assert arrivals.look() == []
    (folder / "Data1.dat").write_text("x")
    assert arrivals.look() == []
    clock(10)
    assert names(arrivals.look()) == ["a.mrxs"]


def test_a_slide_that_is_deleted_meanwhile_is_no_error(tmp_path: Path, clock: Callable[[float], None]) -> None:
    arrivals, slide = Arrivals(tmp_path, SLIDE_SUFFIXES, 10.0), tmp_path / "a.svs"
    slide.write_bytes(b"one")
    arrivals.look()
    slide.unlink()
    clock(10)
    assert arrivals.look() == []
