"""Files and folders that appear whole or not at all, and what is said when they cannot."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from glassrt.engine.errors import FolderTaken, OutputError
from glassrt.engine.files import prepare_folder, replace_file, replace_folder


def make_link(path: Path, target: Path) -> None:
    target.mkdir()
    (target / "marker").write_text("theirs")
    path.symlink_to(target)


@pytest.mark.parametrize(
    "make",
    [
        make_link,
        lambda path, target: path.symlink_to(target),
        lambda path, target: path.symlink_to(path.name),
        lambda path, target: (target.write_text("theirs"), path.symlink_to(target)),
        lambda path, target: (target.mkdir(), path.symlink_to(target)),
    ],
    ids=["to a result", "to nothing", "to itself", "to a file", "to an empty folder"],
)
def test_a_link_is_neither_replaced_nor_followed(tmp_path: Path, make: Callable[[Path, Path], object]) -> None:
    path, target = tmp_path / "out" / "result", tmp_path / "target"
    path.parent.mkdir()
    make(path, target)
    before = sorted((str(each), each.is_file() and each.read_text()) for each in tmp_path.rglob("*"))
    with pytest.raises(FolderTaken, match="is a link"), replace_folder(path, "marker"):
        pytest.fail("it came to write")
    assert sorted((str(each), each.is_file() and each.read_text()) for each in tmp_path.rglob("*")) == before
    assert path.is_symlink()


def test_a_link_that_comes_while_work_goes_on_is_not_replaced(tmp_path: Path) -> None:
    path, target = tmp_path / "result", tmp_path / "target"

    def write() -> None:
        with replace_folder(path, "marker") as beside:
            (beside / "marker").write_text("ours")
            make_link(path, target)

    with pytest.raises(FolderTaken, match="is a link"):
        write()
    assert path.is_symlink()
    assert (target / "marker").read_text() == "theirs"
    assert sorted(os.listdir(tmp_path)) == ["result", "target"]


def test_results_are_written_where_a_link_to_the_output_folder_leads(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    for content in ("older", "newer"):
        prepare_folder(tmp_path / "out")
        with replace_folder(tmp_path / "out" / "result", "marker") as beside:
            (beside / "marker").write_text(content)
    assert (tmp_path / "disk" / "result" / "marker").read_text() == "newer"
    assert os.listdir(tmp_path / "disk") == ["result"]


def test_an_output_folder_that_is_a_link_to_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="is a link that leads nowhere"):
        prepare_folder(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_is_replaced_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real").write_text("older")
    (tmp_path / "link").symlink_to("far/real")
    with replace_file(tmp_path / "link") as beside:
        beside.write_text("newer")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "real").read_text() == "newer"
    assert os.listdir(tmp_path / "far") == ["real"]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(os.devnull)])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "place")
    with pytest.raises(OutputError, match="is not a file"), replace_file(tmp_path / "place"):
        pytest.fail("it came to write")
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("slide.svs", errno.EACCES, None),
        ("slide.svs", errno.EIO, None),
        (None, errno.EPERM, None),
        (None, errno.ESTALE, None),
        (".glassrt-0/map.raw", errno.EACCES, None),
        (None, errno.ENOSPC, "no space left"),
        (None, errno.EROFS, "no permission to write"),
        ("INSIDE", errno.EACCES, "no permission to write"),
        ("INSIDE", errno.EIO, "cannot be written"),
    ],
)
def test_only_failures_of_writing_are_told_as_such(
    tmp_path: Path, name: str | None, code: int, says: str | None
) -> None:
    """A slide that lies beside the results may fail to be read while they are made."""

    def write() -> None:
        with replace_folder(tmp_path / "result", "marker") as beside:
            place = beside / "map.raw" if name == "INSIDE" else name and tmp_path / name
            raise OSError(code, os.strerror(code), *([str(place)] if place else []))

    with pytest.raises((OSError, OutputError)) as caught:
        write()
    if says is None:
        assert isinstance(caught.value, OSError)
    else:
        assert isinstance(caught.value, OutputError)
        assert str(caught.value).startswith(f"{tmp_path / 'result'}: {says}")
    assert os.listdir(tmp_path) == []
