"""Which folder a slide's results go to, and what stands there that is not replaced."""

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import GLASSRT
from plain_batch import BUNDLE, list_slides, make_slide, read_all, read_rows, run_here, score_here
from plain_network import PSPNET

from glassrt import engine
from glassrt.engine import open_slide
from glassrt.engine.errors import FolderTaken
from glassrt.engine.production.journal import JOURNAL
from glassrt.engine.results.origin import read_origin
from glassrt.engine.results.summary import SUMMARY, Outcome


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


def other_case(tmp_path: Path, slide: Path) -> Path:
    return make_slide(tmp_path / "case" / "Slide.tif")


def link(tmp_path: Path, slide: Path) -> Path:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / slide.name).symlink_to(slide)
    return tmp_path / "links" / slide.name


def hard_link(tmp_path: Path, slide: Path) -> Path:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / slide.name).hardlink_to(slide)
    return tmp_path / "links" / slide.name


@pytest.mark.parametrize("other", [same_folder, moved, copied, missing, other_suffix, other_case, link, hard_link])
def test_another_slide_of_the_name_has_a_folder_and_a_row_of_its_own(
    score: Callable[..., list[Outcome]], tmp_path: Path, other: Callable[[Path, Path], Path]
) -> None:
    slide, out = make_slide(tmp_path / "slide.tif"), tmp_path / "out"
    score(slide)
    before = read_all(out / "slide")
    asked = other(tmp_path, slide)
    for _ in range(2):
        (outcome,) = score(asked)
        assert (outcome.status == "failed") == (other is missing)
        assert read_all(out / "slide") == before
        assert read_rows(out) == [f"{slide} done", f"{asked} {'failed' if other is missing else 'done'}"]
        names = list_slides(out)
        assert len(names) == (1 if other is missing else 2)
        assert len({name.casefold() for name in names}) == len(names)
        for name in set(names) - {"slide"}:
            assert name.startswith(f"{asked.stem}-")
            assert read_origin(out / name) == os.path.realpath(asked)


def test_slides_of_one_name_named_without_their_folders_are_two(
    score: Callable[..., list[Outcome]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each from within its own."""
    slides = [make_slide(tmp_path / name / "slide.tif") for name in ("one", "two")]
    for round in range(2):
        for number, slide in enumerate(slides):
            monkeypatch.chdir(slide.parent)
            score(Path("slide.tif"))
            there = slides if round else slides[: number + 1]
            assert {read_origin(tmp_path / "out" / id) for id in list_slides(tmp_path / "out")} == set(map(str, there))
            assert read_rows(tmp_path / "out") == [f"{each} done" for each in there]


def unknown(tmp_path: Path, slide: Path) -> None:
    (tmp_path / "out" / "slide" / "result.json").write_text('{"slide": {"name": "slide"}}')


def no_json(tmp_path: Path, slide: Path) -> None:
    (tmp_path / "out" / "slide" / "result.json").write_text("theirs")


def of_another(tmp_path: Path, slide: Path) -> None:
    score_here([same_folder(tmp_path, slide)], tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "out" / "slide")
    shutil.move(tmp_path / "elsewhere" / "slide", tmp_path / "out" / "slide")


def led_elsewhere(tmp_path: Path, slide: Path) -> None:
    """The slide that was scored was a link, which now leads to another."""
    real = Path(shutil.move(slide, tmp_path / "real.tif"))
    slide.symlink_to(real)
    stored = json.loads((tmp_path / "out" / "slide" / "result.json").read_text())
    stored["slide"]["file"] = str(real)
    (tmp_path / "out" / "slide" / "result.json").write_text(json.dumps(stored))
    slide.unlink()
    slide.symlink_to(same_folder(tmp_path, slide))


@pytest.mark.parametrize("change", [unknown, no_json, of_another, led_elsewhere])
@pytest.mark.parametrize("how", ["done", "forced", "forgotten"])
def test_a_result_of_another_slide_is_not_replaced(
    score: Callable[..., list[Outcome]], tmp_path: Path, change: Callable[[Path, Path], None], how: str
) -> None:
    """It is told before any work, whether the journal says that the slide is done or is gone."""
    slide, first, out = make_slide(tmp_path / "slide.tif"), make_slide(tmp_path / "first.tif"), tmp_path / "out"
    score(slide)
    change(tmp_path, slide)
    for name in (JOURNAL, SUMMARY) if how == "forgotten" else ():
        (out / name).unlink()
    before = read_all(out / "slide")
    with pytest.raises(FolderTaken, match="choose another --out") as caught:
        score(first, slide, force=how == "forced")
    assert str(slide) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert read_all(out / "slide") == before
    assert not (out / "first").exists()


@pytest.mark.parametrize("more", ["notes.txt", "b/result.json", "overlay.png/mine.txt"])
def test_a_result_with_more_in_its_folder_is_not_replaced(
    score: Callable[..., list[Outcome]], tmp_path: Path, more: str
) -> None:
    slide, folder = make_slide(tmp_path / "slide.tif"), tmp_path / "out" / "slide"
    score(slide)
    if "overlay" in more:
        (folder / "overlay.png").unlink()
    (folder / more).parent.mkdir(exist_ok=True)
    (folder / more).write_text("mine")
    before = read_all(tmp_path / "out")
    with pytest.raises(FolderTaken, match="which is not of a result") as caught:
        score(make_slide(tmp_path / "first.tif"), slide, force=True)
    assert f"{folder} holds {more.split('/')[0]!r}" in str(caught.value)
    with open_slide(slide) as opened, pytest.raises(FolderTaken, match="which is not of a result"):
        engine.score(opened, BUNDLE, folder, "ort", precision="fp32")
    assert read_all(tmp_path / "out") == before


def test_the_folder_of_a_result_takes_no_results(score: Callable[..., list[Outcome]], tmp_path: Path) -> None:
    score(make_slide(tmp_path / "a.tif"))
    before = read_all(tmp_path / "out")
    with pytest.raises(FolderTaken, match="is the folder of one slide's result; choose another --out"):
        score_here([make_slide(tmp_path / "b.tif")], tmp_path / "out" / "a")
    assert read_all(tmp_path / "out") == before


@pytest.mark.parametrize("kind", ["as before", "relative", "dots"])
def test_the_same_slide_by_another_path_is_the_same(
    score: Callable[..., list[Outcome]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It is not scored again unless its file has changed."""
    slide, out = make_slide(tmp_path / "slide.tif"), tmp_path / "out"
    score(slide)
    (tmp_path / "again").mkdir()
    monkeypatch.chdir(tmp_path)
    again = {"relative": Path("slide.tif"), "dots": tmp_path / "again" / ".." / "slide.tif"}.get(kind, slide)
    before = read_all(out / "slide")
    (outcome,) = score(again)
    assert outcome.status != "failed"
    assert read_all(out / "slide") == before
    assert read_rows(out) == [f"{slide} done"]
    (out / "slide" / "overlay.png").write_text("older")
    make_slide(slide, 200)
    ended = run_here([slide, again], out)
    assert (list(ended.outcomes), ended.plan.changed) == (["slide"], 1)
    assert (out / "slide" / "overlay.png").read_bytes() != b"older"
    assert read_rows(out) == [f"{slide} done"]
    assert list_slides(out) == ["slide"]


def test_a_name_that_differs_in_case_from_a_folder_that_stands_is_refused(
    score: Callable[..., list[Outcome]], tmp_path: Path
) -> None:
    """One that the journal does not know."""
    (tmp_path / "out" / "Slide").mkdir(parents=True)
    (tmp_path / "out" / "Slide" / "mine.txt").write_text("mine")
    with pytest.raises(FolderTaken, match="in case only"):
        score(make_slide(tmp_path / "first.tif"), make_slide(tmp_path / "b" / "slide.tif"))
    assert sorted(os.listdir(tmp_path / "out")) == ["Slide"]
    assert (tmp_path / "out" / "Slide" / "mine.txt").read_text() == "mine"


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
        score(slide, force=True)
    assert read_all(tmp_path) == before


def test_another_bundle_may_follow_and_its_classes_have_columns_beside(
    score: Callable[..., list[Outcome]], tmp_path: Path
) -> None:
    """What is scored with it loses its older figures; rows of other slides keep theirs."""
    slides, out = [make_slide(tmp_path / f"{name}.tif") for name in "ab"], tmp_path / "out"
    score(*slides)
    bundle = Path(shutil.copytree(PSPNET, tmp_path / "tumour.glass"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["classes"][1]["name"] = "tumour"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    kept = read_all(out / "a")
    named = map(str, (slides[1], make_slide(tmp_path / "c.tif"), "--bundle", bundle, "--out", out))
    done = subprocess.run([GLASSRT, "score", *named, "--workers", "0"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Slides: 1 done with another bundle or options, scored anew, 1 new" in done.stdout
    with open(out / SUMMARY, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {name.partition("_")[0] for name in rows[0] if name.endswith("_regions")} == {"gland", "tumour"}
    assert [(row["id"], row["gland_mm2"], row["tumour_mm2"]) for row in rows] == [
        ("a", "0", ""), ("b", "", "0"), ("c", "", "0")
    ]  # fmt: skip
    assert read_all(out / "a") == kept
