"""Native code that someone else could have put into the cache is not run."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from glassrt.engine.cache import check_contents, default_folder, keep, make_folder, read
from glassrt.engine.errors import OutputError

posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes are those of POSIX")
as_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")
SOMEONE = 65_534
MAKE = """
from pathlib import Path
from glassrt.engine.cache import keep, make_folder
folder = Path("caches/of/mine")
make_folder(folder)
keep(folder / "a.plan", b"native code")
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def replace(path: Path, make: Callable[[], object]) -> None:
    path.unlink()
    make()


SPOILT = {
    "a file that its group can write": (
        lambda file: file.chmod(0o664),
        r"a\.plan can be written by others \(mode 0664\)",
    ),
    "a file that all can write": (lambda file: file.chmod(0o602), r"a\.plan can be written by others"),
    "a folder that its group can write": (lambda file: file.parent.chmod(0o770), "plans can be written by others"),
    "a folder that all can write": (lambda file: file.parent.chmod(0o1777), "plans can be written by others"),
    "a folder that its group can replace": (lambda file: file.parents[1].chmod(0o770), "where others can replace it"),
    "a folder that all can replace": (lambda file: file.parents[2].chmod(0o777), "where others can replace it"),
    "a link": (lambda file: file.rename(file.with_name("b")) and file.symlink_to("b"), r"a\.plan is a link"),
    "a pipe": (lambda file: replace(file, lambda: os.mkfifo(file, 0o600)), r"a\.plan is no file"),
}
FOREIGN = {
    "a file of another user": (lambda file: os.chown(file, SOMEONE, SOMEONE), r"a\.plan belongs to another user"),
    "a folder of another user": (lambda file: os.chown(file.parent, SOMEONE, SOMEONE), "plans belongs to another user"),
    "a folder in that of another user": (lambda file: os.chown(file.parents[1], SOMEONE, 0), "others can replace it"),
}


@posix
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        *(pytest.param(*each, id=name) for name, each in SPOILT.items()),
        *(pytest.param(*each, id=name, marks=as_root) for name, each in FOREIGN.items()),
    ],
)
def test_what_others_could_have_written_is_refused_and_left_alone(
    tmp_path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    folder = tmp_path / "cache" / "plans"
    make_folder(folder)
    file = folder / "a.plan"
    keep(file, b"native code")
    assert read(file) == b"native code"
    spoil(file)
    with pytest.raises(OutputError, match=f"{says}.*set GLASSRT_CACHE"):
        read(file)
    if not file.is_fifo():
        assert file.read_bytes() == b"native code"


@posix
@pytest.mark.parametrize("umask", [0, 0o002, 0o022])
def test_folders_and_files_are_the_users_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    subprocess.run([sys.executable, "-c", MAKE], check=True, cwd=tmp_path, umask=umask)
    made = [tmp_path / "caches", tmp_path / "caches" / "of", tmp_path / "caches" / "of" / "mine"]
    assert [mode(each) for each in made] == [0o700] * 3
    assert mode(made[-1] / "a.plan") == 0o600
    assert read(made[-1] / "a.plan") == b"native code"


@posix
def test_a_folder_that_others_may_read_is_closed(tmp_path: Path) -> None:
    (tmp_path / "plans").mkdir(mode=0o755)
    make_folder(tmp_path / "plans")
    assert mode(tmp_path / "plans") == 0o700


@posix
def test_the_user_may_link_the_cache_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir(mode=0o700)
    (tmp_path / "plans").symlink_to("large")
    make_folder(tmp_path / "plans")
    keep(tmp_path / "plans" / "a.plan", b"native code")
    assert read(tmp_path / "plans" / "a.plan") == b"native code"


@posix
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(lambda file: replace(file, lambda: file.symlink_to("/dev/zero")), "is no file", id="a link"),
        pytest.param(lambda file: replace(file, file.mkdir), "is no file", id="a folder"),
        pytest.param(lambda file: file.chmod(0o666), "can be written by others", id="all can write"),
        pytest.param(lambda file: file.parent.chmod(0o775), "can be written by others", id="its group can add"),
        pytest.param(lambda file: os.chown(file, SOMEONE, SOMEONE), "another user", id="owner", marks=as_root),
    ],
)
def test_a_folder_that_a_library_reads_is_searched_before(
    tmp_path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    folder = tmp_path / "ort"
    make_folder(folder)
    for name in ("x.engine", "y.engine"):
        (folder / name).write_bytes(b"native code")
    check_contents(folder)
    spoil(folder / "x.engine")
    with pytest.raises(OutputError, match=f"{says}.*set GLASSRT_CACHE"):
        check_contents(folder)


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLASSRT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_folder() == Path("/x/glassrt/plans")
    monkeypatch.setenv("GLASSRT_CACHE", "/y")
    assert default_folder() == Path("/y/plans")
