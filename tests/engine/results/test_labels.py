"""What a table of labels may hold, and what is said of one that is none."""

import os
from pathlib import Path

import pytest

from glassrt.engine.errors import UsageError
from glassrt.engine.results.labels import read_labels


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ("slide,label\na.svs,benign\nb.svs,malign\n", {"a": False, "b": True}),
        ("\ufefflabel,site,slide\r\nmalign,x,/scans/2024/a.b.mrxs\r\n", {"a.b": True}),
        ('slide, label\n"odd, name.tif", "Malign"\n\n\nc.svs,benign', {"odd, name": True, "c": False}),
        ("slide,label\nold/a.svs,benign\nnew/a.svs,benign\n", {"a": False}),
    ],
)
def test_slides_are_labelled_by_their_stem(tmp_path: Path, content: str, labels: dict[str, bool]) -> None:
    (tmp_path / "labels.csv").write_text(content, encoding="utf-8", newline="")
    assert read_labels(tmp_path / "labels.csv") == labels


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "labels.csv: expected the columns slide and label in the first line"),
        (b"slide;label\na;benign\n", "expected the columns slide and label in the first line, divided by commas"),
        (b"slide,label\n", "labels.csv labels no slide"),
        (b"slide,label\na.svs,benign\nb.svs,cancer\n", "labels.csv, line 3: label 'cancer' of 'b' is neither benign"),
        (b"slide,label\na.svs\n", "line 2: label '' of 'a' is neither"),
        (b"slide,label\n,benign\n", "line 2: no slide is named"),
        (b"slide,label\na.svs,benign\nold/a.tif,malign\n", "line 3: 'a' has the other label in a line before"),
        (b'slide,label\n"a.svs"x,benign\n', "line 2: not CSV"),
        (b"slide,label\n\xff.svs,benign\n", "is no text in UTF-8"),
    ],
)
def test_what_is_no_table_of_labels_is_told_with_the_line(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(UsageError, match=says) as caught:
        read_labels(tmp_path / "labels.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [lambda path: None, os.mkfifo, os.mkdir])
def test_what_is_no_file_is_told(tmp_path: Path, make: object) -> None:
    make(tmp_path / "labels.csv")  # type: ignore[operator]
    with pytest.raises(UsageError, match=r"labels\.csv cannot be read as labels"):
        read_labels(tmp_path / "labels.csv")
