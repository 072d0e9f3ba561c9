"""summary.csv: what stays of it, what is never destroyed, what spreadsheets make of it."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from made_results import make_result, read_rows, write_result

from glassrt.engine.errors import OutputError
from glassrt.engine.files import readable_json
from glassrt.engine.results.cells import as_text, plain_text
from glassrt.engine.results.figures import SlideScoresResult
from glassrt.engine.results.origin import RESULT, read_origin
from glassrt.engine.results.summary import SUMMARY, Outcome, Summary


def test_rows_of_another_run_stay_as_long_as_their_results(tmp_path: Path) -> None:
    first = Summary(tmp_path, ["gland"])
    for name in ("/s/a.svs", "/s/b.svs"):
        first.add(write_result(tmp_path, Path(name)))
    first.add(Outcome(Path("/s/c.svs"), error="/s/c.svs: broken"))
    (tmp_path / "a" / RESULT).unlink()
    second = Summary(tmp_path, ["gland"])
    second.begin()
    second.add(write_result(tmp_path, Path("/s/d.svs")))
    rows = read_rows(tmp_path)
    assert [(row["slide"], row["status"]) for row in rows] == [
        ("/s/b.svs", "scored"),
        ("/s/c.svs", "failed"),
        ("/s/d.svs", "scored"),
    ]
    assert rows[0] == {
        "slide": "/s/b.svs",
        "status": "scored",
        "tissue_mm2": "2",
        "analysed_mm2": "3",
        "gland_mm2": "0.25",
        "gland_probability": "0.5",
        "gland_tissue_fraction": "0.125",
        "gland_regions": "3",
        "windows": "7",
        "seconds": "1.5",
        "bundle": "glands",
        "warnings": "",
        "error": "",
    }
    assert rows[1]["error"] == "/s/c.svs: broken"


def test_a_bundle_that_asks_for_slide_scores_has_columns_of_them(tmp_path: Path) -> None:
    """Empty where a slide has none of that class; and made anew from the results, as all rows are."""
    scores = SlideScoresResult("gland", 5.0, 7.25, -1.5, -2e-7)
    of_another = SlideScoresResult("lumen", 5.0, 1.0, 1.0, 1.0)
    for name, given in (("a", scores), ("b", None), ("c", of_another)):
        write_result(tmp_path, Path(f"/s/{name}.svs"), scores=given)
    summary = Summary(tmp_path, ["gland"], "gland")
    summary.begin()
    written = (tmp_path / SUMMARY).read_bytes()
    rows = read_rows(tmp_path)
    assert list(rows[0])[4:12] == [
        *("gland_mm2", "gland_probability", "gland_tissue_fraction", "gland_regions"),
        *("gland_maximum_log_odds", "gland_percentile_99_log_odds", "gland_top_log_odds", "windows"),
    ]
    assert [list(row.values())[8:12] for row in rows] == [["7.25", "-1.5", "-2e-07", "7"], *[["", "", "", "7"]] * 2]
    summary.begin()
    assert (tmp_path / SUMMARY).read_bytes() == written
    assert [row[9] for row in summary.read()] == ["-1.5", "", ""]


@pytest.mark.parametrize(("first", "then"), [("gland", None), (None, "gland"), ("gland", "lumen")])
def test_a_summary_with_other_slide_scores_is_left(tmp_path: Path, first: str | None, then: str | None) -> None:
    Summary(tmp_path, ["gland", "lumen"], first).add(Outcome(Path("/s/a.svs"), error="broken"))
    with pytest.raises(OutputError, match="other classes than gland, lumen or with other slide scores"):
        Summary(tmp_path, ["gland", "lumen"], then).begin()


def test_a_result_of_before_slide_scores_is_read(tmp_path: Path) -> None:
    write_result(tmp_path, Path("/s/a.svs"))
    stored = json.loads((tmp_path / "a" / RESULT).read_text())
    del stored["slide_scores"]
    (tmp_path / "a" / RESULT).write_text(json.dumps(stored))
    Summary(tmp_path, ["gland"]).begin()
    assert [row["slide"] for row in read_rows(tmp_path)] == ["/s/a.svs"]


def test_a_slide_has_one_row_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, slide = tmp_path / "out", tmp_path / "a.svs"
    slide.write_text("pixels")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.svs").symlink_to(slide)
    monkeypatch.chdir(tmp_path)
    out.mkdir()
    summary = Summary(out, ["gland"])
    summary.add(Outcome(slide, error="the disk is gone"))
    summary.add(write_result(out, Path("b.svs")))
    for named in (Path("a.svs"), slide, Path("links/a.svs"), Path("links/../a.svs")):
        summary.add(write_result(out, named))
        assert [row["slide"] for row in read_rows(out)] == [str(named), "b.svs"]
    summary.add(Outcome(slide, error="the disk is gone"))
    assert [(row["slide"], row["status"]) for row in read_rows(out)] == [(str(slide), "failed"), ("b.svs", "scored")]


def test_another_slide_of_the_name_that_fails_has_a_row_of_its_own(tmp_path: Path) -> None:
    summary = Summary(tmp_path, ["gland"])
    summary.add(Outcome(Path("/first/a.svs"), error="broken"))
    summary.add(write_result(tmp_path, Path("/second/a.svs")))
    summary.add(Outcome(Path("/third/a.svs"), error="broken"))
    assert [row["slide"] for row in read_rows(tmp_path)] == ["/first/a.svs", "/second/a.svs", "/third/a.svs"]


def test_slides_of_one_name_in_two_folders_have_two_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is named without its folder, from within it."""
    out, slide = tmp_path / "out", Path("x.png")
    out.mkdir()
    failed = [f"{tmp_path}/dB/x.png", f"{tmp_path}/dA/x.png"]
    for name in ("dB", "dA"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        Summary(out, ["gland"]).add(Outcome(slide, error="broken"))
    assert [row["slide"] for row in read_rows(out)] == failed
    Summary(out, ["gland"]).add(write_result(out, slide))
    monkeypatch.chdir(tmp_path / "dB")
    Summary(out, ["gland"]).begin()
    assert [(row["slide"], row["status"]) for row in read_rows(out)] == [(failed[0], "failed"), ("x.png", "scored")]
    Summary(out, ["gland"]).add(Outcome(slide, error="still broken"))
    assert [(row["slide"], row["error"]) for row in read_rows(out)] == [(failed[0], "still broken"), ("x.png", "")]


def test_results_whose_row_a_killed_run_did_not_write_get_it(tmp_path: Path) -> None:
    Summary(tmp_path, ["gland"]).add(write_result(tmp_path, Path("/s/a.svs")))
    write_result(tmp_path, Path("/s/b.svs"), tissue=4.0)
    write_result(tmp_path, Path("/s/c.svs"), classes=("tumour",))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / RESULT).write_text("{}")
    Summary(tmp_path, ["gland"]).begin()
    assert [(row["slide"], row["tissue_mm2"]) for row in read_rows(tmp_path)] == [("/s/a.svs", "2"), ("/s/b.svs", "4")]
    (tmp_path / SUMMARY).unlink()
    Summary(tmp_path, ["gland"]).begin()
    assert [row["slide"] for row in read_rows(tmp_path)] == ["/s/a.svs", "/s/b.svs"]


def test_rows_of_scored_slides_are_those_of_the_results_that_stand(tmp_path: Path) -> None:
    summary = Summary(tmp_path, ["gland"])
    for name in ("a", "b", "c", "d", "e"):
        summary.add(write_result(tmp_path, Path(f"/s/{name}.svs")))
    write_result(tmp_path, Path("/s/a.svs"), tissue=4.0)
    write_result(tmp_path, Path("/s/b.svs"), classes=("tumour",))
    (tmp_path / "c" / RESULT).write_bytes(readable_json(make_result(Path("/s/other.svs"))))
    stored = json.loads((tmp_path / "d" / RESULT).read_text())
    (tmp_path / "d" / RESULT).write_text(json.dumps({**stored, "seconds": {}}))
    Summary(tmp_path, ["gland"]).begin()
    assert [(row["slide"], row["tissue_mm2"]) for row in read_rows(tmp_path)] == [("/s/a.svs", "4"), ("/s/e.svs", "2")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"name,age\r\nann,3\r\n", "other columns"),
        (b"slide,status\r\n", "other columns"),
        (b"\x89PNG\r\n\x1a\n\0\xff", "damaged"),
        (b"slide;status;tissue_mm2\r\n", "other columns"),
        (b"HEADING/s/a.svs,scored,1,2\r\n", "damaged in row 2"),
        (b'HEADING"/s/a.svs,scored', "damaged"),
        (b'HEADING"/s/a.svs"x,scored', "damaged"),
    ],
)
def test_a_file_that_is_not_ours_to_go_on_with_is_left_as_it_is(tmp_path: Path, content: bytes, says: str) -> None:
    summary = Summary(tmp_path, ["gland"])
    content = content.replace(b"HEADING", ",".join(summary.columns).encode() + b"\r\n")
    (tmp_path / SUMMARY).write_bytes(content)
    for act in (summary.begin, lambda: summary.add(write_result(tmp_path, Path("/s/b.svs")))):
        with pytest.raises(OutputError, match=says) as caught:
            act()
        assert "\n" not in str(caught.value)
    assert (tmp_path / SUMMARY).read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == ["b", SUMMARY]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("nowhere", path)])
def test_what_is_no_file_is_left_too(tmp_path: Path, make: object) -> None:
    make(tmp_path / SUMMARY)  # type: ignore[operator]
    with pytest.raises(OutputError, match="is no file"):
        Summary(tmp_path, ["gland"]).begin()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def deep(path: Path) -> None:
    path.write_text('{"slide": {"file": ' + "[" * 100_000)


@pytest.mark.parametrize("make", [pipe, endless, huge, deep, Path.mkdir])
def test_only_a_regular_file_of_its_size_is_read_as_a_result(tmp_path: Path, make: Callable[[Path], None]) -> None:
    Summary(tmp_path, ["gland"]).add(write_result(tmp_path, Path("/s/a.svs")))
    (tmp_path / "x").mkdir()
    make(tmp_path / "x" / RESULT)
    Summary(tmp_path, ["gland"]).begin()
    assert [row["slide"] for row in read_rows(tmp_path)] == ["/s/a.svs"]
    assert read_origin(tmp_path / "x") == ""


def test_a_summary_that_no_table_is_as_large_as_is_left(tmp_path: Path) -> None:
    huge(tmp_path / SUMMARY)
    with pytest.raises(OutputError, match="has over 268435456 bytes; move it away"):
        Summary(tmp_path, ["gland"]).begin()


def test_columns_of_another_bundle_never_hold_its_figures(tmp_path: Path) -> None:
    Summary(tmp_path, ["gland"]).add(write_result(tmp_path, Path("/s/a.svs")))
    for classes in (["tumour"], ["gland", "tumour"], ["Gland"]):
        with pytest.raises(OutputError, match=f"other classes than {', '.join(classes)}"):
            Summary(tmp_path, classes).begin()


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-dash.tif", "-1+2", "-1\n", "@SUM(A1)", "\tx", "\rx", "\nx", "＝1", "'=1", "''@"]
)
def test_no_cell_is_a_formula_and_every_cell_is_read_back(tmp_path: Path, text: str) -> None:
    summary = Summary(tmp_path, [text])
    summary.add(Outcome(Path(text), error=text))
    summary.add(write_result(tmp_path, Path("/s/=a.svs"), classes=(text,)))
    with open(tmp_path / SUMMARY, newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell and cell[0] in "=+-@\t\r\n＝"]
    assert "/s/=a.svs" in cells
    assert f"'{text}" in cells
    Summary(tmp_path, [text]).begin()
    assert [row[0] for row in Summary(tmp_path, [text]).read()] == [os.path.abspath(text), "/s/=a.svs"]


@pytest.mark.parametrize("text", ["/s/a.svs", "'quoted'.tif", "", "0.5", "-1.5", "-2e-07", "a=b", 'x\ny,"z"', "é 组织"])
def test_other_cells_are_as_they_were(text: str) -> None:
    assert as_text(text) == text == plain_text(text)


def test_runs_at_once_lose_no_row(tmp_path: Path) -> None:
    """Four processes add rows to one summary; one more is killed while it does."""
    add = """
import sys
from pathlib import Path
from glassrt.engine.results.summary import Outcome, Summary
summary = Summary(Path(sys.argv[1]), ["gland"])
summary.begin()
for number in range(int(sys.argv[3])):
    summary.add(Outcome(Path(f"/s/{sys.argv[2]}-{number}.svs"), error="broken"))
    print(flush=True)
"""
    command = [sys.executable, "-c", add, str(tmp_path)]
    killed = subprocess.Popen([*command, "killed", "100000"], stdout=subprocess.PIPE)
    adding = [subprocess.Popen([*command, name, "25"], stdout=subprocess.DEVNULL) for name in "abcd"]
    assert killed.stdout is not None
    done = sum(1 for _, line in zip(range(5), killed.stdout, strict=False) if line)
    killed.kill()
    done += len(killed.stdout.read().splitlines())
    killed.wait()
    killed.stdout.close()
    assert [process.wait() for process in adding] == [0] * 4
    slides = [row["slide"] for row in read_rows(tmp_path)]
    assert len(slides) == len(set(slides))
    assert {f"/s/{name}-{number}.svs" for name in "abcd" for number in range(25)} <= set(slides)
    assert sum(slide.startswith("/s/killed") for slide in slides) in (done, done + 1)
