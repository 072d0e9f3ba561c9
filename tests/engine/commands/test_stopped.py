"""Scoring that cannot write, or is stopped: one line, and nothing half written."""

import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile
from command_line import GLASSRT, assert_one_line, run
from plain_batch import BESIDE, LOCK, list_slides, make_slide, read_rows

from glassrt.engine.production.journal import JOURNAL, read_journals

SMALL = 64 * 1024


@pytest.fixture(scope="module")
def big_slide(demo_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo slide's tissue 16 times: long enough to be stopped in the middle."""
    pixels = tifffile.imread(demo_slide)[900:2700, 100:1900]
    path = tmp_path_factory.mktemp("slides") / "big.tiff"
    tifffile.imwrite(path, np.tile(pixels, (4, 4, 1)), tile=(512, 512), photometric="rgb", compression="jpeg")
    return path


def assert_nothing_came(out: Path) -> None:
    """Nothing lies in the folder of a batch but what belongs to any, and its one slide waits as if never begun."""
    assert {path.name for path in out.iterdir()} == {LOCK, JOURNAL}
    assert [(row.state, row.attempts) for row in read_journals(out)] == [("waiting", 0)]


@pytest.mark.parametrize(("place", "says"), [("file/out", "a file stands"), ("file", "a file stands")])
def test_a_folder_that_cannot_be_made_is_named(demo_slide: Path, tmp_path: Path, place: str, says: str) -> None:
    (tmp_path / "file").write_text("in the way")
    assert_one_line(run("score", demo_slide, "--out", tmp_path / place), 2, says, str(tmp_path / place))


def test_a_folder_without_permission_is_named(demo_slide: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        locked = Path("/proc/1")  # where even root cannot make files
    else:
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o555)
    assert_one_line(run("score", demo_slide, "--out", locked / "out"), 2, str(locked))


def test_a_file_size_limit_ends_in_one_line_with_nothing_half_written(demo_slide: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL))

    done = run("score", demo_slide, "--out", tmp_path / "out", preexec_fn=limit)
    assert_one_line(done, 2, "no space left", str(tmp_path / "out"))
    assert_nothing_came(tmp_path / "out")


def test_a_full_disk_ends_in_one_line_with_nothing_half_written(demo_slide: Path, tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        done = run("score", demo_slide, "--out", tmp_path / "out")
        assert_one_line(done, 2, "no space left", str(tmp_path / "out"))
        assert_nothing_came(tmp_path / "out")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_killed_run_leaves_no_result_and_the_next_one_cleans_up(big_slide: Path, tmp_path: Path) -> None:
    command = [GLASSRT, "score", str(big_slide), "--mpp", "0.499", "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".glassrt-*/map.raw")):
            assert process.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / big_slide.stem).exists()
    assert list(tmp_path.glob(".glassrt-*/map.raw"))
    assert [(row.id, row.state) for row in read_journals(tmp_path)] == [(big_slide.stem, "running")]
    done = run("score", tmp_path / "none.svs", "--out", tmp_path)
    assert done.returncode == 3
    assert {path.name for path in tmp_path.iterdir()} == BESIDE
    assert [(row.id, row.state, row.attempts) for row in read_journals(tmp_path)] == [
        (big_slide.stem, "waiting", 0), ("none", "failed", 2)
    ]  # fmt: skip
    assert read_rows(tmp_path) == [f"{tmp_path / 'none.svs'} failed"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(big_slide: Path, tmp_path: Path, number: int) -> None:
    command = [GLASSRT, "score", str(big_slide), "--mpp", "0.499", "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob(".glassrt-*/map.raw")):
            assert process.poll() is None, "the run ended before it was interrupted"
            time.sleep(0.05)
        process.send_signal(number)
        told = process.communicate()[1]
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert_nothing_came(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_batch_that_is_interrupted_goes_on(big_slide: Path, tmp_path: Path, number: int, workers: str) -> None:
    """What it was at is given up, by its workers too; what is done stays, and is not done again."""
    slides, out = [make_slide(tmp_path / "first.tif"), big_slide, make_slide(tmp_path / "last.tif")], tmp_path / "out"
    command = [GLASSRT, "score", *map(str, slides), "--workers", workers, "--mpp", "0.499", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not list(out.glob(".glassrt-*/map.raw")) or not (out / "first").exists():
            assert process.poll() is None, read_journals(out)
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        told = process.communicate()[1]
    assert process.returncode == 130, told
    assert len(told.strip().splitlines()) <= 1
    assert psutil.wait_procs(children, 10)[1] == []
    assert [(row.id, row.state) for row in read_journals(out)] == [
        ("first", "done"), (big_slide.stem, "waiting"), ("last", "waiting")
    ]  # fmt: skip
    assert {path.name for path in out.iterdir()} <= {*BESIDE, "first", "report.html"}
    before = (out / "first" / "result.json").stat()
    done = run("score", slides[0], slides[2], "--workers", workers, "--mpp", "0.499", "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert (out / "first" / "result.json").stat() == before
    assert read_rows(out) == [f"{slides[0]} done", f"{slides[2]} done"]
    (out / "report.html").unlink()
    assert list_slides(out) == ["first", "last"]
