"""Many slides into one folder, by one run after another and by runs at once."""

import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tifffile
from command_line import GLASSRT
from made_dicom import write_series
from plain_batch import LOCK, SETUP, Unseen, list_slides, make_slide, read_all, read_rows, run_here, score_here

from glassrt.engine.errors import FolderTaken, OutputError, UsageError
from glassrt.engine.production.claim import claim_folder
from glassrt.engine.production.journal import JOURNAL, Journal
from glassrt.engine.production.wire import Order, Setup
from glassrt.engine.results.summary import SUMMARY, Outcome

LOST = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int seen;
static bool fails(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    return strstr(path, "/lost.tiff") && ++seen > 60;
}
extern "C" ssize_t pread64(int file, void *to, size_t size, off64_t offset) {
    if (fails(file)) { errno = atoi(getenv("FAILS_WITH")); return -1; }
    return ((ssize_t (*)(int, void *, size_t, off64_t))dlsym(RTLD_NEXT, "pread64"))(file, to, size, offset);
}
extern "C" ssize_t pread(int file, void *to, size_t size, off_t offset) { return pread64(file, to, size, offset); }
"""


def test_a_loop_of_runs_leaves_what_one_run_does(score: Callable[..., list[Outcome]], tmp_path: Path) -> None:
    slides = [make_slide(tmp_path / f"{name}.tif") for name in "cab"]
    for slide in slides:
        score(slide)
    assert read_rows(tmp_path / "out") == [f"{slide} done" for slide in slides]
    score(slides[1])
    assert read_rows(tmp_path / "out") == [f"{slide} done" for slide in slides]
    assert list_slides(tmp_path / "out") == ["a", "b", "c"]
    score_here(slides, tmp_path / "once")
    assert read_rows(tmp_path / "once") == read_rows(tmp_path / "out")
    assert list_slides(tmp_path / "once") == ["a", "b", "c"]


class Begun(Unseen):
    """Takes note of the slides that are begun."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def begin(self, order: Order) -> None:
        self.ids.append(order.id)


def test_what_is_done_with_the_same_file_bundle_and_options_is_not_scored_again(tmp_path: Path) -> None:
    slides, out = [make_slide(tmp_path / f"{name}.tif") for name in "abc"], tmp_path / "out"
    slides[1].write_bytes(b"no slide")
    begun: list[list[str]] = []

    def run(**options: object) -> list[int]:
        watcher = Begun()
        plan = run_here(slides, out, watcher, **options).plan
        begun.append(watcher.ids)
        return [plan.done, plan.failed, plan.changed, plan.otherwise, plan.new]

    assert run() == [0, 0, 0, 0, 3]
    before = read_all(out)
    assert run() == [2, 1, 0, 0, 0]
    table = str(out / SUMMARY)
    assert {**read_all(out), str(out / JOURNAL): b""} == {**before, str(out / JOURNAL): b""}
    make_slide(slides[0], 200)
    assert run(failed_alone=True) == [0, 1, 0, 0, 0]
    assert read_all(out)[table] == before[table]
    assert run() == [1, 1, 1, 0, 0]
    assert run(setup=Setup(readers=1, flip=False)) == [0, 1, 0, 2, 0]
    assert run(setup=Setup(readers=1, flip=False), force=True) == [0, 1, 0, 2, 0]
    make_slide(slides[1], 230)
    assert run(setup=Setup(readers=1, flip=False)) == [2, 1, 0, 0, 0]
    assert begun == [
        [*"abcb"], [*"bb"], [*"bb"], [*"abb"], [*"abcb"], [*"abcb"], ["b"]
    ]  # fmt: skip
    assert read_rows(out) == [f"{slide} done" for slide in slides]


def test_a_result_says_of_which_file_it_is(
    score: Callable[..., list[Outcome]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = make_slide(tmp_path / "real" / "a.tif")
    (tmp_path / "link.tif").symlink_to(slide)
    monkeypatch.chdir(tmp_path)
    score(Path("link.tif"), slide)
    stored = {
        name: json.loads((tmp_path / "out" / name / "result.json").read_text())["slide"] for name in ("a", "link")
    }
    shown = {name: [values[key] for key in ("given", "path", "file")] for name, values in stored.items()}
    assert shown["a"] == [str(slide)] * 3
    assert shown["link"] == ["link.tif", str(tmp_path / "link.tif"), str(slide)]


@pytest.mark.parametrize("error", ["EIO", "ESTALE", "EACCES", "EPERM"])
def test_a_disk_that_goes_away_costs_the_slide_that_was_read(demo_slide: Path, tmp_path: Path, error: str) -> None:
    (tmp_path / "lost.cpp").write_text(LOST)
    library = tmp_path / "lost.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, tmp_path / "lost.cpp", "-ldl"], check=True)
    pixels = tifffile.imread(demo_slide)[900:1924, 300:1324]
    options = {"tile": (128, 128), "photometric": "rgb", "resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "lost.tiff", pixels, compression="jpeg", **options)  # type: ignore[arg-type]
    last = make_slide(tmp_path / "last.tif")
    done = subprocess.run(
        [GLASSRT, "score", tmp_path / "lost.tiff", last, "--out", tmp_path / "out"],
        env={**os.environ, "LD_PRELOAD": str(library), "FAILS_WITH": str(getattr(errno, error))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.splitlines()
    assert "lost.tiff" in line
    assert not any(word in line for word in ("writ", "unexpected", "--out"))
    (tmp_path / "out" / "report.html").unlink()
    assert list_slides(tmp_path / "out") == ["last"]


def test_a_dicom_series_is_one_slide(score: Callable[..., list[Outcome]], tmp_path: Path) -> None:
    first, second = (write_series(tmp_path / "dicom", f"1.2.3.{number}") for number in (5, 6))
    broken = tmp_path / "dicom" / "broken.dcm"
    broken.write_bytes(bytes(128) + b"DICM")
    with pytest.raises(UsageError, match=r"5-1\.dcm and .*5-2\.dcm are of one DICOM series, one slide") as caught:
        score(second[0], first[0], broken, first[1])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    outcomes = score(second[1], first[0], broken)
    assert [outcome.status == "failed" for outcome in outcomes] == [False, False, True]
    assert [outcome.result.slide["size"] for outcome in outcomes if outcome.result] == [[256, 256]] * 2


def test_a_folder_that_is_taken_meanwhile_costs_one_slide(tmp_path: Path) -> None:
    """Another process puts the result of another slide of the name there while this one works."""
    slide, other = make_slide(tmp_path / "slide.tif"), make_slide(tmp_path / "other" / "slide.tif")
    last, out = make_slide(tmp_path / "last.tif"), tmp_path / "out"
    score_here([other], tmp_path / "elsewhere")

    class Meanwhile(Unseen):
        def begin(self, order: Order) -> None:
            if order.id == "slide" and not (out / "slide").exists():
                (tmp_path / "elsewhere" / "slide").rename(out / "slide")

    outcomes = score_here([slide, last], out, Meanwhile())
    assert [outcome.status == "failed" for outcome in outcomes] == [True, False]
    assert f"holds the result of {other}" in outcomes[0].error
    assert read_rows(out) == [f"{slide} failed", f"{last} done"]
    stored = json.loads((out / "slide" / "result.json").read_text())
    assert stored["slide"]["path"] == str(other)


def test_of_two_runs_at_once_one_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    slides, out = [make_slide(tmp_path / f"{name}.tif") for name in "ab"], tmp_path / "out"
    score_here(slides[:1], out)
    before = read_all(out)
    with claim_folder(out), pytest.raises(UsageError, match=f"is being written by process {os.getpid()}"):
        score_here(slides, out)
    assert read_all(out) == before
    score_here(slides, out)
    assert read_rows(out) == [f"{slide} done" for slide in slides]


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"\xff\0", b"id,slide,status\r\n", b""])
def test_a_summary_without_a_journal_is_refused_before_any_work(
    score: Callable[..., list[Outcome]], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / SUMMARY).write_bytes(content)
    with pytest.raises(FolderTaken, match=r"summary\.csv is there without a journal.*choose another --out") as caught:
        score(make_slide(tmp_path / "a.tif"))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path / "out") == [SUMMARY]
    assert (tmp_path / "out" / SUMMARY).read_bytes() == content


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("nowhere", path)])
def test_what_stands_where_the_summary_belongs_is_refused_too(
    score: Callable[..., list[Outcome]], tmp_path: Path, make: Callable[[Path], None]
) -> None:
    (tmp_path / "out").mkdir()
    make(tmp_path / "out" / SUMMARY)
    before = (tmp_path / "out" / SUMMARY).lstat()
    with pytest.raises(FolderTaken, match=r"summary\.csv is there without a journal"):
        score(make_slide(tmp_path / "a.tif"))
    assert os.listdir(tmp_path / "out") == [SUMMARY]
    assert (tmp_path / "out" / SUMMARY).lstat() == before


def test_a_journal_that_is_none_is_refused_before_any_work(score: Callable[..., list[Outcome]], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    theirs = b"theirs, and long enough to look like a database" * 20
    (tmp_path / "out" / JOURNAL).write_bytes(theirs)
    with pytest.raises(OutputError, match=r"journal\.sqlite is no journal of GlassRT") as caught:
        score(make_slide(tmp_path / "a.tif"))
    assert "\n" not in str(caught.value)
    assert set(os.listdir(tmp_path / "out")) <= {LOCK, JOURNAL}
    assert (tmp_path / "out" / JOURNAL).read_bytes() == theirs


def test_what_a_batch_that_was_killed_had_begun_is_scored_by_the_next(tmp_path: Path) -> None:
    """Rows of other slides stay, also of those that it never came to."""
    slides, out = [make_slide(tmp_path / f"{name}.tif") for name in "abc"], tmp_path / "out"

    class Killed(Unseen):
        def begin(self, order: Order) -> None:
            if order.id == "b":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_here(slides, out, Killed())
    journal = Journal(out / JOURNAL)
    assert [(row.id, row.state, row.attempts) for row in journal.rows()] == [
        ("a", "done", 1), ("b", "waiting", 0), ("c", "waiting", 0)
    ]  # fmt: skip
    journal.begin("b")  # as a process leaves it that is killed
    journal.close()
    watcher = Begun()
    ended = run_here(slides[1:2], out, watcher, setup=SETUP)
    assert (watcher.ids, list(ended.outcomes)) == (["b"], ["b"])
    assert read_rows(out) == [f"{slide} done" for slide in slides[:2]]
    score_here(slides, out)
    assert read_rows(out) == [f"{slide} done" for slide in slides]
    assert list_slides(out) == ["a", "b", "c"]
