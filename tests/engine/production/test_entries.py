"""Which slides a batch is of: arguments, folders, patterns, manifests; and what each is called."""

import re
from pathlib import Path

import pytest
from made_dicom import write_series

from glassrt.engine.errors import UsageError
from glassrt.engine.production.entries import list_entries, refuse_one_name


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(entries: list) -> list[tuple[str, str]]:
    return [(entry.id, Path(entry.address).name) for entry in entries]


def test_folders_give_the_slides_that_they_hold(tmp_path: Path) -> None:
    touch(
        tmp_path, "b.svs", "a.NDPI", "notes.txt", ".hidden.svs", "sub/c.tif", ".cache/d.svs", "m.mrxs", "m/Data0000.dat"
    )
    assert names(list_entries([str(tmp_path)], None, (), {})) == [
        ("a", "a.NDPI"), ("b", "b.svs"), ("m", "m.mrxs"), ("c", "c.tif")
    ]  # fmt: skip
    assert names(list_entries([str(tmp_path)], None, (".SVS", ".txt"), {})) == [("b", "b.svs"), ("notes", "notes.txt")]
    with pytest.raises(UsageError, match=r"no slides here, of \.scn"):
        list_entries([str(tmp_path)], None, (".scn",), {})


def test_patterns_and_arguments_give_each_slide_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.svs", "b.svs", "x[1].svs")
    given = [str(tmp_path / "*.svs"), str(tmp_path / "b.svs"), str(tmp_path / "x[1].svs"), str(tmp_path / "none.svs")]
    assert names(list_entries(given, None, (), {})) == [
        ("a", "a.svs"), ("b", "b.svs"), ("x[1]", "x[1].svs"), ("none", "none.svs")
    ]  # fmt: skip
    with pytest.raises(UsageError, match="no slides: name files, folders or patterns, or a --manifest"):
        list_entries([], None, (), {})


def test_a_dicom_series_is_one_slide(tmp_path: Path) -> None:
    write_series(tmp_path / "dicom", "1.2.3.5")
    write_series(tmp_path / "dicom", "1.2.3.6")
    assert len(list_entries([str(tmp_path / "dicom")], None, (), {})) == 2


def test_slides_of_one_name_are_told_apart_and_keep_their_ids(tmp_path: Path) -> None:
    touch(tmp_path, "p/x.svs", "q/X.svs", "q/y.svs")
    first = list_entries([str(tmp_path / "p"), str(tmp_path / "q")], None, (), {})
    ids = [entry.id for entry in first]
    assert ids[2] == "y"
    assert [each[:2] for each in ids[:2]] == ["x-", "X-"]
    assert len({each.casefold() for each in ids}) == 3
    assert [entry.id for entry in list_entries([str(tmp_path / "q"), str(tmp_path / "p")], None, (), {})] == [
        ids[1], "y", ids[0]
    ]  # fmt: skip
    known = {str(tmp_path / "p" / "x.svs"): "x"}  # which it had when it was alone
    again = list_entries([str(tmp_path / "p"), str(tmp_path / "q")], None, (), known)
    assert (again[0].id, again[1].id) == ("x", ids[1])


def test_a_file_that_was_named_itself_is_not_called_otherwise(tmp_path: Path) -> None:
    touch(tmp_path, "p/x.svs", "q/X.tif", "q/y.svs")
    one, other = str(tmp_path / "p" / "x.svs"), str(tmp_path / "q" / "X.tif")
    for named, known in (([one, other], {}), ([str(tmp_path / "p"), other], {}), ([other], {one: "x"})):
        with pytest.raises(UsageError, match=re.escape(f"{other} has the same name as {one}")):
            refuse_one_name(list_entries(named, None, (), known)[::-1], known)
    manifest = write(tmp_path / "slides.csv", f"path,id\n{one},\n{other},apart\n")
    for entries, known in (
        (list_entries([str(tmp_path)], None, (), {}), {}),
        (list_entries([], manifest, (), {}), {}),
        (list_entries([other], None, (), {other: "X-1", one: "x"}), {other: "X-1", one: "x"}),
    ):
        refuse_one_name(entries, known)


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_a_manifest_says_how_each_slide_is_scored(tmp_path: Path) -> None:
    rows = [
        'path,id,mpp,bundle,label,"a b"',
        'a.svs,one,0.25,,"x, y",1',
        "/s/b.svs,,,other.glass,=2+2,",
        "s3://x/c.svs,,,,,",
    ]
    manifest = write(tmp_path / "slides.csv", "\r\n".join(rows), "utf-8-sig")
    first, second, third = list_entries([], manifest, (), {})
    assert (first.id, first.address, first.mpp, first.bundle) == ("one", str(tmp_path / "a.svs"), 0.25, None)
    assert first.columns == {"label": "x, y", "a b": "1"}
    assert (second.id, second.address, second.mpp, second.bundle) == (
        "b",
        "/s/b.svs",
        None,
        str(tmp_path / "other.glass"),
    )
    assert (third.id, third.address, third.line) == ("c", "s3://x/c.svs", 4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,id\na.svs,1\n", r"no column `path` in line 1, which has file, id"),
        ("", "no column `path` in line 1, which has none"),
        ("path,id\na.svs,x\nb.svs,X\n", "the id 'X' is in line 2 and in line 3"),
        ("path,id\na.svs,../x\n", "line 2: the id '../x' would lead out of the output folder"),
        ("path,id\na.svs,a/b\n", "would lead out"),
        ("path,id\na.svs,..\n", "would lead out"),
        ("path,id\na.svs,.glassrt-x\n", "is no name for a folder"),
        (f"path,id\na.svs,{'x' * 256}\n", "is longer than 255 bytes"),
        ("path,mpp\na.svs,0.25um\n", "line 2: `mpp` is '0.25um', expected micrometres per pixel"),
        ("path,mpp\na.svs,nan\n", "`mpp` is 'nan'"),
        ("path,mpp\na.svs,-1\n", "`mpp` is '-1'"),
        ("path,id\n,x\n", "line 2: `path` is empty"),
        ("path,id\na.svs\n", "line 2: as many cells as columns are needed"),
        ("path,id\na.svs,1,2\n", "line 2: as many cells as columns"),
        ('path,id\n"a.svs,1\n', "line 2: unexpected end of data"),
    ],
)
def test_a_manifest_that_is_none_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        list_entries([], write(tmp_path / "slides.csv", text), (), {})
    assert "\n" not in str(caught.value)


def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"slides\.csv is not UTF-8 \(byte 5\)"):
        list_entries([], write(tmp_path / "slides.csv", "path\n\xe9.svs\n", "latin-1"), (), {})
    with pytest.raises(UsageError, match="cannot be read"):
        list_entries([], tmp_path / "none.csv", (), {})
