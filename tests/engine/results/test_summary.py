"""summary.csv: its rows and columns, and what spreadsheets make of its cells."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from made_results import make_result, read_rows, write_result

from glassrt.engine import open_bundle
from glassrt.engine.bundles.parts import SlideScoring
from glassrt.engine.errors import OutputError
from glassrt.engine.results.cells import as_text, plain_text
from glassrt.engine.results.figures import Result, SlideScoresResult
from glassrt.engine.results.origin import RESULT, read_origin, read_stored
from glassrt.engine.results.summary import SUMMARY, Outcome, Summary, name_figures, name_found

GLAND = ("gland_mm2", "gland_probability", "gland_tissue_fraction", "gland_regions")
SCORES = ("gland_maximum_log_odds", "gland_percentile_99_log_odds", "gland_top_log_odds")


def write(out: Path, *outcomes: Outcome, figures: tuple[str, ...] = GLAND) -> list[dict[str, str]]:
    """The rows of a summary of these slides."""
    summary = Summary(out / SUMMARY, [Path(each.path).stem for each in outcomes], figures, ())
    for each in outcomes:
        summary.put(Path(each.path).stem, each, {})
    summary.write()
    return read_rows(out)


def test_a_row_says_what_became_of_a_slide(tmp_path: Path) -> None:
    scored = write_result(tmp_path, Path("/s/b.svs"))
    bare = Outcome(Path("/s/d.svs"), msgspec.structs.replace(make_result(Path("/s/d.svs")), note="no tissue found"))
    rows = write(tmp_path, scored, Outcome("s3://x/c.svs", error="s3://x/c.svs: broken"), bare)
    assert rows[0] == {
        "id": "b",
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
    told = {"id": "c", "slide": "s3://x/c.svs", "status": "failed", "error": "s3://x/c.svs: broken"}
    assert rows[1] == {**dict.fromkeys(rows[0], ""), **told}
    assert rows[2] == {**rows[0], "id": "d", "slide": "/s/d.svs", "status": "no tissue"}


def test_rows_are_in_the_order_of_the_ids_and_are_those_that_are_known(tmp_path: Path) -> None:
    """Whichever slide ends first; one that was put twice has the row of the second time."""
    summary = Summary(tmp_path / SUMMARY, "cabd", GLAND, ())
    summary.write()
    assert read_rows(tmp_path) == []
    told = []
    for id, error in (("b", "first"), ("c", "broken"), ("b", "second"), ("d", "broken")):
        summary.put(id, Outcome(Path(f"/s/{id}.svs"), error=error), {})
        summary.write()
        told.append([f"{row['id']} {row['error']}" for row in read_rows(tmp_path)])
    assert told == [
        ["b first"],
        ["c broken", "b first"],
        ["c broken", "b second"],
        ["c broken", "b second", "d broken"],
    ]
    assert [path.name for path in tmp_path.iterdir()] == [SUMMARY]


def test_slides_of_one_name_have_rows_of_their_own(tmp_path: Path) -> None:
    summary = Summary(tmp_path / SUMMARY, ["a", "a-0", "a-1"], GLAND, ())
    summary.put("a", Outcome(Path("/first/a.svs"), error="broken"), {})
    summary.put("a-0", write_result(tmp_path, Path("/second/a.svs")), {})
    summary.put("a-1", Outcome(Path("/third/a.svs"), error="broken"), {})
    summary.write()
    assert [row["slide"] for row in read_rows(tmp_path)] == ["/first/a.svs", "/second/a.svs", "/third/a.svs"]


def test_a_bundle_that_asks_for_slide_scores_has_columns_of_them(tmp_path: Path) -> None:
    """Empty where a slide has none of that class."""
    manifest = open_bundle().segmentation
    asks = msgspec.structs.replace(manifest, slide_scores=SlideScoring("gland", 5.0))
    assert name_figures(manifest) == list(GLAND)
    assert name_figures(asks) == [*GLAND, *SCORES]
    scores = SlideScoresResult("gland", 5.0, 7.25, -1.5, -2e-7)
    outcomes = [
        write_result(tmp_path, Path(f"/s/{name}.svs"), scores=given) for name, given in (("a", scores), ("b", None))
    ]
    rows = write(tmp_path, *outcomes, figures=tuple(name_figures(asks)))
    assert list(rows[0])[5:13] == [*GLAND, *SCORES, "windows"]
    assert [list(row.values())[9:13] for row in rows] == [["7.25", "-1.5", "-2e-07", "7"], ["", "", "", "7"]]


def test_a_result_of_before_slide_scores_has_a_row(tmp_path: Path) -> None:
    write_result(tmp_path, Path("/s/a.svs"))
    stored = json.loads((tmp_path / "a" / RESULT).read_text())
    del stored["slide_scores"]
    (tmp_path / "a" / RESULT).write_text(json.dumps(stored))
    result = read_stored(tmp_path / "a", Result)
    assert result is not None
    assert name_found(result) == list(GLAND)
    (row,) = write(tmp_path, Outcome(Path("/s/a.svs"), result), figures=(*GLAND, *SCORES))
    assert [row[name] for name in ("status", *GLAND, *SCORES)] == ["scored", "0.25", "0.5", "0.125", "3", "", "", ""]


def test_columns_of_another_bundle_never_hold_its_figures(tmp_path: Path) -> None:
    """Names that differ in case only are two."""
    outcomes = [
        write_result(tmp_path, Path("/s/a.svs")),
        write_result(tmp_path, Path("/s/b.svs"), classes=("tumour",)),
        write_result(tmp_path, Path("/s/c.svs"), classes=("Gland", "gland")),
    ]
    figures = [name for each in outcomes if each.result for name in name_found(each.result)]
    rows = write(tmp_path, *outcomes, figures=tuple(figures))
    names = [name for name in rows[0] if name.endswith("_mm2")]
    assert names == ["tissue_mm2", "analysed_mm2", "gland_mm2", "tumour_mm2", "Gland_mm2"]
    assert [[row[name] for name in names[2:]] for row in rows] == [
        ["0.25", "", ""],
        ["", "0.25", ""],
        ["0.25", "", "0.25"],
    ]
    assert [list(row).index("windows") for row in rows] == [5 + 3 * len(GLAND)] * 3


def test_columns_of_a_manifest_stand_beside_and_never_hide_others(tmp_path: Path) -> None:
    summary = Summary(tmp_path / SUMMARY, ["a", "b"], GLAND, ["label", "status", "gland_mm2"])
    summary.put("a", write_result(tmp_path, Path("/s/a.svs")), {"label": "benign", "status": "x", "gland_mm2": "y"})
    summary.put("b", Outcome(Path("/s/b.svs"), error="broken"), {"label": "malign"})
    summary.write()
    rows = read_rows(tmp_path)
    assert list(rows[0])[-4:] == ["error", "label", "manifest_status", "manifest_gland_mm2"]
    asked = ("status", "gland_mm2", "label", "manifest_status", "manifest_gland_mm2")
    assert [[row[name] for name in asked] for row in rows] == [
        ["scored", "0.25", "benign", "x", "y"],
        ["failed", "", "malign", "", ""],
    ]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_left(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / SUMMARY)
    before = (tmp_path / SUMMARY).lstat()
    with pytest.raises(OutputError, match=r"summary\.csv is not a file that could be replaced"):
        write(tmp_path, Outcome(Path("/s/a.svs"), error="broken"))
    assert (tmp_path / SUMMARY).lstat() == before
    assert [path.name for path in tmp_path.iterdir()] == [SUMMARY]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def deep(path: Path) -> None:
    path.write_text('{"slide": {"file": ' + "[" * 100_000)


def other(path: Path) -> None:
    path.write_text("{}")


@pytest.mark.parametrize("make", [pipe, endless, huge, deep, other, Path.mkdir])
def test_only_a_regular_file_of_its_size_is_read_as_a_result(tmp_path: Path, make: Callable[[Path], None]) -> None:
    write_result(tmp_path, Path("/s/a.svs"))
    assert read_stored(tmp_path / "a", Result) is not None
    assert read_origin(tmp_path / "a") == "/s/a.svs"
    (tmp_path / "x").mkdir()
    make(tmp_path / "x" / RESULT)
    assert read_stored(tmp_path / "x", Result) is None
    assert read_origin(tmp_path / "x") == ""


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-dash.tif", "-1+2", "-1\n", "@SUM(A1)", "\tx", "\rx", "\nx", "＝1", "'=1", "''@"]
)
def test_no_cell_is_a_formula_and_every_cell_can_be_read_back(tmp_path: Path, text: str) -> None:
    result = make_result(Path("/s/=a.svs"), (text,))
    summary = Summary(tmp_path / SUMMARY, [text, "a"], name_found(result), [text])
    summary.put(text, Outcome(Path(text), error=text), {text: text})
    summary.put("a", Outcome(Path("/s/=a.svs"), result), {text: "1"})
    summary.write()
    with open(tmp_path / SUMMARY, newline="", encoding="utf-8") as file:
        columns, *rows = csv.reader(file)
    cells = [cell for row in (columns, *rows) for cell in row]
    assert not [cell for cell in cells if cell and cell[0] in "=+-@\t\r\n＝"]
    assert "/s/=a.svs" in cells
    assert columns[-1] == rows[0][-1] == f"'{text}"
    assert f"'{text}_mm2" in columns
    first = dict(zip(map(plain_text, columns), map(plain_text, rows[0]), strict=True))
    assert [first[name] for name in ("id", "slide", "error", text)] == [text] * 4


@pytest.mark.parametrize("text", ["/s/a.svs", "'quoted'.tif", "", "0.5", "-1.5", "-2e-07", "a=b", 'x\ny,"z"', "é 组织"])
def test_other_cells_are_as_they_were(text: str) -> None:
    assert as_text(text) == text == plain_text(text)
