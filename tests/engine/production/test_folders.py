"""Which folder a slide's results go to, and what stands there that is not replaced."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import GLASSRT
from plain_batch import BUNDLE, make_slide, read_all, read_rows

from glassrt import engine
from glassrt.engine import open_slide
from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE
from glassrt.engine.errors import FolderTaken, UsageError
from glassrt.engine.production.batch import Job, check_names, score_batch
from glassrt.engine.results.summary import Outcome
from glassrt.engine.runtimes.protocol import Backend


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
