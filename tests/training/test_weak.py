"""A lab's own slides with labels alone, as a table lists them."""

from pathlib import Path

import numpy as np
import pytest

from glassrt.engine.errors import DatasetError
from glassrt.engine.geometry.boxes import Box
from glassrt.training.datasets.weak import NoLesion, WeakSlide, find_slides, read_labels


def listed(folder: Path, text: str | bytes, files: tuple[str, ...] = ("a.svs", "b.svs", "deep/c.tif")) -> Path:
    """A table of labels beside files."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    path = folder / "labels.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "slide,label\na.svs,benign\ndeep/c.tif,malign\n",
        "\ufeffslide,label\r\na.svs,benign\r\ndeep/c.tif,malign",
        "note, label , slide\n,Benign , a.svs\nseen twice,MALIGN,deep/c.tif,more\n",
        'slide,label\n"a.svs",benign\n\n./deep/../deep/c.tif,malign\n',
    ],
)
def test_slides_are_found_from_the_folder_of_their_table(tmp_path: Path, text: str) -> None:
    first, second = read_labels(listed(tmp_path, text))
    assert first == WeakSlide("a", tmp_path / "a.svs", None, False, None)
    assert (second.name, second.malign, second.path.samefile(tmp_path / "deep/c.tif")) == ("c", True, True)


def test_slides_may_lie_elsewhere(tmp_path: Path) -> None:
    path = listed(tmp_path, f"slide,label\n{tmp_path / 'a.svs'},malign\nb.svs,benign\n")
    (tmp_path / "tables").mkdir()
    moved = path.rename(tmp_path / "tables" / "labels.csv")
    moved.write_text(moved.read_text().replace("b.svs", "../b.svs"))
    assert [slide.malign for slide in read_labels(moved)] == [True, False]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("slide,label\na.svs,benign\nnone.svs,malign\n", r", slide 2: there is no file 'none\.svs' in .*; correct"),
        ("slide,label\na.svs,benign\ndeep,malign\n", ", slide 2: there is no file 'deep'"),
        ("slide,label\n,malign\n", ", slide 1: there is no file ''"),
        (f"slide,label\n{'x' * 5000},malign\n", ", slide 1: there is no file 'x{60}'"),
        ("slide,label\na\0,malign\n", ", slide 1: there is no file|cannot be read"),
        ("slide,label\na.svs,tumor\n", ", slide 1: the label 'tumor' is neither benign nor malign"),
        ("slide,label\na.svs\n", ", slide 1: the label '' is neither"),
        ("slide,label\na.svs,benign\nb.svs,malign\n./a.svs,malign\n", r", slide 3: '\./a\.svs' is slide 1 already"),
        ("slide,label\na.svs,benign\nb.svs,benign\n", " holds benign slides alone; label some of both"),
        ("slide,label\nb.svs,malign\n", " holds malign slides alone"),
        ("slide,label\n", " holds no slide; label some"),
        ("", ": no column 'slide'; it needs the columns slide and label"),
        ("slide;label\na.svs;benign\n", ": no column 'slide'"),
        ("slide\na.svs\n", ": no column 'label'"),
        ("slide,label\nM\u00fcller.svs,benign\n".encode("latin-1"), " cannot be read as a table in UTF-8"),
        ("slide,label\na.svs,benign\n".encode("utf-16"), " cannot be read as a table in UTF-8"),
    ],
)
def test_a_table_that_is_none_is_refused_in_a_line(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(DatasetError, match=rf"labels\.csv({says})") as told:
        read_labels(listed(tmp_path, text))
    assert "\n" not in str(told.value)
    assert "\0" not in str(told.value)
    assert len(str(told.value)) < 300 + 2 * len(str(tmp_path))


def test_a_table_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"labels\.csv cannot be read as a table.*No such file"):
        read_labels(tmp_path / "labels.csv")


def test_a_benign_slide_is_benign_everywhere() -> None:
    assert np.array_equal(NoLesion().cut(Box(3, 4, 9, 6), (100, 100)), np.zeros((2, 6), np.uint8))


def test_a_table_may_name_splits(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / f"{name}.svs").touch()
    rows = ["slide,label,split", "a.svs,benign,train", "b.svs,malign,train", "c.svs,benign,test", "d.svs,malign,test"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    assert [(each.name, each.malign) for each in find_slides(tmp_path, "test")] == [("c", False), ("d", True)]
    assert len(read_labels(tmp_path / "labels.csv")) == 4
    with pytest.raises(DatasetError, match=r"labels\.csv holds no slide of the split 'val'; label some of both"):
        find_slides(tmp_path, "val")
    (tmp_path / "labels.csv").write_text("\n".join(row.rpartition(",")[0] for row in rows))
    with pytest.raises(DatasetError, match="no column 'split'; without it all slides are one split: ask for 'all'"):
        find_slides(tmp_path, "test")
    assert len(find_slides(tmp_path, "all")) == 4
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(DatasetError, match=r"no labels\.csv here; it needs the columns slide and label"):
        find_slides(tmp_path, "test")
