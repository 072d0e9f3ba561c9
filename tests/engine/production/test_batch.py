"""Many slides into one folder, by one run after another and by runs at once."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from made_dicom import write_series

from glassrt import engine
from glassrt.engine import open_bundle, open_slide
from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE
from glassrt.engine.errors import FolderTaken, OutputError, UsageError
from glassrt.engine.production.batch import Job, check_names, score_batch
from glassrt.engine.results.summary import Outcome
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend

GLASSRT = str(Path(sys.executable).with_name("glassrt"))
BUNDLE = open_bundle()
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


@pytest.fixture(scope="module")
def backend() -> Backend:
    return open_backend(BUNDLE)


@pytest.fixture
def score(backend: Backend, tmp_path: Path) -> Callable[..., list[Outcome]]:
    """Scores slides into `tmp_path/out`."""

    def run(*paths: Path) -> list[Outcome]:
        return score_batch(paths, Job(BUNDLE, backend, tmp_path / "out"), lambda path: lambda done, total: None)

    return run


def make_slide(path: Path, grey: int = 240) -> Path:
    """A slide of plain glass, which is scored at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"tile": (64, 64), "photometric": "rgb", "resolution": (16129, 16129), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, np.full((128, 128, 3), grey, np.uint8), **options)  # type: ignore[arg-type]
    return path


def read_rows(out: Path) -> list[str]:
    with open(out / "summary.csv", newline="", encoding="utf-8") as file:
        return [f"{row['slide']} {'failed' if row['status'] == 'failed' else 'done'}" for row in csv.DictReader(file)]


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


def same_folder(tmp_path: Path, slide: Path) -> Path:
    return make_slide(tmp_path / "other" / slide.name, 230)


def moved(tmp_path: Path, slide: Path) -> Path:
    (tmp_path / "moved").mkdir()
    return Path(shutil.move(slide, tmp_path / "moved" / slide.name))


def copied(tmp_path: Path, slide: Path) -> Path:
    (tmp_path / "copied").mkdir()
    return Path(shutil.copy(slide, tmp_path / "copied" / slide.name))


def missing(tmp_path: Path, slide: Path) -> Path:
    return tmp_path / "missing" / slide.name


def other_suffix(tmp_path: Path, slide: Path) -> Path:
    return make_slide(tmp_path / "slide.tiff")


def unknown(tmp_path: Path, slide: Path) -> Path:
    (tmp_path / "out" / "slide" / "result.json").write_text('{"slide": {"name": "slide"}}')
    return slide


def no_json(tmp_path: Path, slide: Path) -> Path:
    (tmp_path / "out" / "slide" / "result.json").write_text("theirs")
    return slide


def led_elsewhere(tmp_path: Path, slide: Path) -> Path:
    """The slide that was scored was a link, which now leads to another."""
    link = tmp_path / "links" / slide.name
    link.parent.mkdir()
    link.symlink_to(slide)
    score_again = json.loads((tmp_path / "out" / "slide" / "result.json").read_text())
    score_again["slide"]["path"] = str(link)
    (tmp_path / "out" / "slide" / "result.json").write_text(json.dumps(score_again))
    link.unlink()
    link.symlink_to(same_folder(tmp_path, slide))
    return link


@pytest.mark.parametrize("other", [same_folder, moved, copied, missing, other_suffix, unknown, no_json, led_elsewhere])
def test_another_slide_of_the_name_is_refused_before_any_work(
    score: Callable[..., list[Outcome]], tmp_path: Path, other: Callable[[Path, Path], Path]
) -> None:
    slide, first = make_slide(tmp_path / "slide.tif"), make_slide(tmp_path / "first.tif")
    score(slide)
    asked = other(tmp_path, slide)
    before = read_all(tmp_path / "out")
    with pytest.raises(FolderTaken, match="choose another --out") as caught:
        score(first, asked)
    assert str(asked) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert read_all(tmp_path / "out") == before


@pytest.mark.parametrize("more", ["notes.txt", "b/result.json", "overlay.png/mine.txt"])
def test_a_result_with_more_in_its_folder_is_not_replaced(
    score: Callable[..., list[Outcome]], backend: Backend, tmp_path: Path, more: str
) -> None:
    slide, folder = make_slide(tmp_path / "slide.tif"), tmp_path / "out" / "slide"
    score(slide)
    if "overlay" in more:
        (folder / "overlay.png").unlink()
    (folder / more).parent.mkdir(exist_ok=True)
    (folder / more).write_text("mine")
    before = read_all(tmp_path / "out")
    with pytest.raises(FolderTaken, match="which is not of a result") as caught:
        score(make_slide(tmp_path / "first.tif"), slide)
    assert f"{folder} holds {more.split('/')[0]!r}" in str(caught.value)
    with open_slide(slide) as opened, pytest.raises(FolderTaken, match="which is not of a result"):
        engine.score(opened, BUNDLE, folder, backend)
    assert read_all(tmp_path / "out") == before


def test_the_folder_of_a_result_takes_no_results(
    score: Callable[..., list[Outcome]], backend: Backend, tmp_path: Path
) -> None:
    score(make_slide(tmp_path / "a.tif"))
    before = read_all(tmp_path / "out")
    with pytest.raises(FolderTaken, match="is the folder of one slide's result; choose another --out"):
        score_batch(
            [make_slide(tmp_path / "b.tif")],
            Job(BUNDLE, backend, tmp_path / "out" / "a"),
            lambda path: lambda done, total: None,
        )
    assert read_all(tmp_path / "out") == before


@pytest.mark.parametrize("kind", ["relative", "link", "hard link", "dots", "in place"])
def test_the_same_slide_by_another_path_is_scored_again(
    score: Callable[..., list[Outcome]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    slide = make_slide(tmp_path / "slide.tif")
    score(slide)
    (tmp_path / "out" / "slide" / "overlay.png").write_text("older")
    again = tmp_path / "again" / "slide.tif"
    again.parent.mkdir()
    monkeypatch.chdir(tmp_path)
    if kind == "link":
        again.symlink_to(slide)
    elif kind == "hard link":
        again.hardlink_to(slide)
    else:
        again = {"relative": Path("slide.tif"), "dots": tmp_path / "again" / ".." / "slide.tif"}.get(kind, slide)
    if kind == "in place":
        make_slide(slide, 200)
    (outcome,) = score(again)
    assert outcome.status != "failed"
    assert (tmp_path / "out" / "slide" / "overlay.png").read_bytes() != b"older"
    assert read_rows(tmp_path / "out") == [f"{again} done"]


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ("a/Case.tif", "b/case.tif", "in case only"),
        ("a/CASE.tif", "a/case.TIF", "in case only"),
        ("a/straße.tif", "a/STRASSE.tif", "in case only"),
        ("a/caf\u00e9.tif", "a/CAFE\u0301.tif", "in case only"),
        ("a/x.tif", "b/x.tiff", "would both write to the folder x"),
        ("a/x.tif", "Summary.CSV.tif", "where summary.csv belongs"),
        ("a/x.tif", "..tif", "no folder of results can have its name"),
        ("a/x.tif", "..", "no folder of results can have its name"),
        ("a/x.tif", "/", "no folder of results can have its name"),
        ("a/x.tif", ".glassrt-0123456789abcdef.tif", "no folder of results can have its name"),
    ],
)
def test_names_that_do_not_make_two_folders_everywhere_are_refused(first: str, second: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check_names([Path(first), Path(second)])


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


def test_a_name_that_differs_in_case_from_a_result_that_stands_is_refused(
    score: Callable[..., list[Outcome]], tmp_path: Path
) -> None:
    score(make_slide(tmp_path / "Slide.tif"))
    before = read_all(tmp_path / "out")
    with pytest.raises(FolderTaken, match="in case only"):
        score(make_slide(tmp_path / "b" / "slide.tif"))
    assert read_all(tmp_path / "out") == before


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_folder_of_results_that_is_a_link_is_refused(
    score: Callable[..., list[Outcome]], tmp_path: Path, target: str
) -> None:
    slide = make_slide(tmp_path / "slide.tif")
    score(slide)
    shutil.move(tmp_path / "out" / "slide", tmp_path / "elsewhere")
    (tmp_path / "out" / "slide").symlink_to(tmp_path / target)
    before = read_all(tmp_path)
    with pytest.raises(FolderTaken, match="is a link"):
        score(slide)
    assert read_all(tmp_path) == before


def test_another_bundle_s_classes_are_refused_before_any_work(
    score: Callable[..., list[Outcome]], tmp_path: Path
) -> None:
    score(make_slide(tmp_path / "a.tif"))
    bundle = Path(shutil.copytree(DEFAULT_BUNDLE, tmp_path / "tumour.glass"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["classes"][1]["name"] = "tumour"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    before = read_all(tmp_path / "out")
    done = subprocess.run(
        [GLASSRT, "score", make_slide(tmp_path / "b.tif"), "--bundle", bundle, "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "other classes than tumour" in line
    assert read_all(tmp_path / "out") == before


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
