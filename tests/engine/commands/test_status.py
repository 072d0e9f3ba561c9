"""`glassrt status`, `report` and `watch` as users run them."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import GLASSRT, assert_one_line, run
from plain_batch import make_slide


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """The output folder of two slides of which one failed."""
    (tmp_path / "bad.tif").write_bytes(b"no slide")
    done = run("score", make_slide(tmp_path / "a.tif"), tmp_path / "bad.tif", "--out", tmp_path / "out", "--workers", 0)
    assert done.returncode == 3, done.stderr
    return tmp_path / "out"


def test_the_state_of_a_batch_is_shown_and_is_the_exit_code(batch: Path, tmp_path: Path) -> None:
    done = run("status", batch)
    assert done.returncode == 3
    assert "1 done, 1 failed; the batch has ended" in done.stdout
    assert "bad.tif: not a" in " ".join(done.stdout.split())
    told = json.loads(run("status", batch, "--json").stdout)
    assert [told[each] for each in ("runs", "done", "failed", "running", "waiting")] == [False, 1, 1, 0, 0]
    assert {slide["id"]: (slide["state"], slide["reason"]) for slide in told["slides"]} == {
        "a": ("done", ""), "bad": ("failed", "slide"),
    }  # fmt: skip
    assert_one_line(run("status", tmp_path / "none"), 2, "no journal of a batch here")
    assert_one_line(run("report", tmp_path), 2, "no journal of a batch here")


def test_the_report_is_made_anew(batch: Path) -> None:
    first = (batch / "report.html").read_text()
    (batch / "report.html").unlink()
    done = run("report", batch)
    assert (done.returncode, done.stdout.strip()) == (0, str(batch / "report.html"))
    assert (batch / "report.html").read_text() == first


@contextmanager
def ended(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    """A process that ends with the context, whatever happens in it."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(found: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 60
    while not found():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_a_watched_folder_is_scored_as_slides_come_and_after_a_restart(tmp_path: Path) -> None:
    folder, out = tmp_path / "scanner", tmp_path / "out"
    folder.mkdir()
    command = [str(each) for each in (GLASSRT, "watch", folder, "--out", out, "--settle", 0.5, "--backend", "ort")]
    for name in ("a", "b"):
        with ended(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)) as process:
            shutil.move(make_slide(tmp_path / f"{name}.tif"), folder / f"{name}.tif")
            wait_for(lambda: (out / name / "result.json").exists(), process)  # noqa: B023
            wait_for(lambda: "done" in run("status", out).stdout, process)
            if name == "a":
                again = run("watch", folder, "--out", out)
                assert_one_line(again, 2, f"is being written by process {process.pid} on ")
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            said = process.communicate()[0]
        assert said.startswith(f"{name}: no tissue in ")
        assert said.count("\n") == 1
    told = json.loads(run("status", out, "--json").stdout)
    assert {slide["id"]: (slide["state"], slide["attempts"]) for slide in told["slides"]} == {
        "a": ("done", 1), "b": ("done", 1),
    }  # fmt: skip


def test_what_cannot_be_watched_is_told(tmp_path: Path) -> None:
    assert_one_line(run("watch", tmp_path / "none", "--out", tmp_path), 2, "no folder that could be watched")
    inside = run("watch", tmp_path, "--out", tmp_path / "out")
    assert_one_line(inside, 2, "where results would be taken for slides")
    assert os.listdir(tmp_path) == []
