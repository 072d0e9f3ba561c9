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
from plain_batch import BUNDLE, make_slide, read_rows

from glassrt.engine.errors import OutputError, UsageError
from glassrt.engine.production.batch import Job, score_batch
from glassrt.engine.results.summary import Outcome
from glassrt.engine.runtimes.protocol import Backend

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
    assert sorted(os.listdir(tmp_path / "out")) == ["a", "b", "c", "summary.csv"]


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
    assert [outcome.result.slide["size"] for outcome in outcomes if outcome.result] == [(256, 256)] * 2


def test_a_folder_that_is_taken_meanwhile_costs_one_slide(
    score: Callable[..., list[Outcome]], backend: Backend, tmp_path: Path
) -> None:
    """Another run puts the results of another slide of the name there while this one works."""
    slide, other = make_slide(tmp_path / "slide.tif"), make_slide(tmp_path / "other" / "slide.tif")
    last = make_slide(tmp_path / "last.tif")

    def start(path: Path) -> Callable[[int, int], None]:
        if path == slide:
            score(other)
        return lambda done, total: None

    outcomes = score_batch([slide, last], Job(BUNDLE, backend, tmp_path / "out"), start)
    assert [outcome.status == "failed" for outcome in outcomes] == [True, False]
    assert f"holds the result of {other}" in outcomes[0].error
    assert read_rows(tmp_path / "out") == [f"{other} done", f"{slide} failed", f"{last} done"]
    stored = json.loads((tmp_path / "out" / "slide" / "result.json").read_text())
    assert stored["slide"]["path"] == str(other)


def test_two_runs_at_once_share_a_folder(tmp_path: Path) -> None:
    slides = [make_slide(tmp_path / f"slide{number}.tif") for number in range(12)]
    runs = [
        subprocess.Popen([GLASSRT, "score", *part, "--out", tmp_path / "out"], stdout=subprocess.DEVNULL)
        for part in (slides[:8], slides[4:])
    ]
    assert [run.wait() for run in runs] == [0, 0]
    assert sorted(read_rows(tmp_path / "out")) == sorted(f"{slide} done" for slide in slides)
    assert sorted(os.listdir(tmp_path / "out")) == sorted([*(slide.stem for slide in slides), "summary.csv"])


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
    assert sorted(os.listdir(tmp_path / "out")) == ["last", "summary.csv"]


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"\xff\0"])
def test_a_summary_of_others_is_refused_before_any_work(
    score: Callable[..., list[Outcome]], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary.csv").write_bytes(content)
    with pytest.raises(OutputError, match=r"summary\.csv"):
        score(make_slide(tmp_path / "a.tif"))
    assert os.listdir(tmp_path / "out") == ["summary.csv"]
    assert (tmp_path / "out" / "summary.csv").read_bytes() == content
