"""Half-written work: real processes that are killed, live ones elsewhere, file systems that cannot swap."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from glassrt.engine.staging import LONG_AGO_S, clear_left, lock_folder

KILLED_STEPS = Path(__file__).parents[1] / "killed_steps.py"
HOLD = """
import sys
from pathlib import Path
from glassrt.engine.files import replace_folder
with replace_folder(Path(sys.argv[1]) / "result", "marker") as beside:
    (beside / "marker").write_text("half")
    print(flush=True)
    sys.stdin.read()
"""
LIBC = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
extern "C" mode_t umask(mode_t) { abort(); }
extern "C" int renameat2(int, const char *, int, const char *, unsigned) { errno = EINVAL; return -1; }
extern "C" int rename(const char *from, const char *to) {
    if (getenv("RENAME_FAILS") && strstr(to, "/result") && !strstr(to, ".older") && !strstr(from, ".older")) {
        errno = EIO;
        return -1;
    }
    return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename"))(from, to);
}
"""
ELSEWHERE = {
    "here": [],
    "a host whose name goes on": ["unshare", "--uts", "sh", "-c", 'hostname "$(hostname)-2"; exec "$@"', "sh"],
    "another container": ["unshare", "--pid", "--uts", "--ipc", "--mount-proc", "--fork", "--kill-child"],
}


@pytest.fixture(scope="module")
def no_swap(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library to preload that cannot swap folders, as NFS, can fail in the last rename, and ends who sets a umask."""
    folder = tmp_path_factory.mktemp("libc")
    (folder / "libc.cpp").write_text(LIBC)
    subprocess.run(["g++", "-shared", "-fPIC", "-o", folder / "no_swap.so", folder / "libc.cpp", "-ldl"], check=True)
    return str(folder / "no_swap.so")


@contextmanager
def holder(folder: Path, where: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """A process that has half-written work in `folder`; it is killed in the end."""
    with subprocess.Popen(
        [*where, sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), "it did not come to write anything"
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("swaps", [True, False], ids=["swap", "no swap"])
def test_no_kill_at_any_step_loses_a_result(tmp_path: Path, no_swap: str, swaps: bool) -> None:
    """Where folders can be swapped, one stands there at every moment; elsewhere the next run brings it back."""
    folder = tmp_path / "out"
    folder.mkdir()
    environment = dict(os.environ) if swaps else {**os.environ, "LD_PRELOAD": no_swap}
    done = subprocess.run(
        [sys.executable, KILLED_STEPS, folder], env=environment, capture_output=True, text=True, check=True
    )
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    older, newer = ["older"] * 3, ["newer"] * 3
    killed, then, later, left = zip(*steps, strict=True)
    assert killed == (True,) * (len(steps) - 1) + (False,)
    assert all(now in (older, newer) for now in later)
    assert all(names == ["result"] for names in left)
    assert (later[0], later[-1]) == (older, newer)
    if swaps:
        assert then == later
    else:
        assert [] in then, "no kill came between the two renames"


def test_an_older_folder_comes_back_when_the_last_rename_fails(tmp_path: Path, no_swap: str) -> None:
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "marker").write_text("older")
    done = subprocess.run(
        [sys.executable, "-c", HOLD, tmp_path],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LD_PRELOAD": no_swap, "RENAME_FAILS": "1"},
        capture_output=True,
        text=True,
    )
    assert "cannot be written (Input/output error)" in done.stderr
    assert (tmp_path / "result" / "marker").read_text() == "older"
    assert os.listdir(tmp_path) == ["result"]


def test_modes_are_the_users_and_no_other_thread_is_given_wrong_ones(tmp_path: Path, no_swap: str) -> None:
    """To ask for the umask means to set it, for every thread; the library ends the process then."""
    subprocess.run(
        [sys.executable, "-c", HOLD, tmp_path],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LD_PRELOAD": no_swap},
        umask=0o027,
        check=True,
    )
    modes = [oct((tmp_path / name).stat().st_mode & 0o777) for name in ("result", "result/marker")]
    assert modes == ["0o750", "0o640"]


@pytest.mark.parametrize("where", ELSEWHERE)
def test_only_what_a_dead_process_left_is_removed(tmp_path: Path, where: str) -> None:
    if ELSEWHERE[where] and subprocess.run([*ELSEWHERE[where], "true"], capture_output=True).returncode:
        pytest.skip("this user may not make namespaces")
    with holder(tmp_path, []) as dead:
        os.killpg(dead.pid, signal.SIGKILL)
    (left,) = tmp_path.glob(".glassrt-*/marker")
    with holder(tmp_path, ELSEWHERE[where]) as process:
        clear_left(tmp_path)
        (held,) = tmp_path.glob(".glassrt-*/marker")
        assert held != left
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0
    assert (tmp_path / "result" / "marker").read_text() == "half"
    assert os.listdir(tmp_path) == ["result"]


def test_what_another_machine_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    """Locks of some network file systems hold on one machine only, so a free one tells little of another's work."""
    with holder(tmp_path, []) as dead:
        os.killpg(dead.pid, signal.SIGKILL)
    (lock,) = tmp_path.glob("*.lock")
    lock.write_text("another machine")
    clear_left(tmp_path)
    (marker,) = tmp_path.glob(".glassrt-*/marker")
    for path in (lock, marker.parent):
        os.utime(path, (0, lock.stat().st_mtime - LONG_AGO_S - 60))
    clear_left(tmp_path)
    assert marker.exists(), "a file in it is new"
    os.utime(marker, (0, lock.stat().st_mtime - 60))
    clear_left(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name", [".glassrt-lab-2-123-abc", ".glassrt-", ".glassrt-..lock", "result.lock", ".glassrt-x.lock"]
)
def test_what_no_lock_of_ours_stands_for_is_left(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("theirs")
    (tmp_path / ".glassrt-.lock").write_text("theirs")
    clear_left(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted({name, ".glassrt-.lock"})


def test_a_link_among_what_was_left_is_removed_and_what_it_leads_to_is_not(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_text("precious")
    (tmp_path / "out").mkdir()
    stem = tmp_path / "out" / ".glassrt-0123456789abcdef"
    stem.symlink_to(tmp_path / "theirs")
    lock = stem.with_name(f"{stem.name}.lock")
    lock.write_text("")
    os.utime(lock, (0, 0))
    os.utime(stem, (0, 0), follow_symlinks=False)
    clear_left(tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []
    assert (tmp_path / "theirs" / "file").read_text() == "precious"


def test_one_process_at_a_time_holds_a_folder(tmp_path: Path) -> None:
    """Each adds to a number in a file, which it reads and writes in two steps."""
    add = """
import sys
from pathlib import Path
from glassrt.engine.staging import lock_folder
for _ in range(200):
    with lock_folder(Path(sys.argv[1])):
        count = int(Path(sys.argv[1], "count").read_text())
        Path(sys.argv[1], "count").write_text(str(count + 1))
"""
    (tmp_path / "count").write_text("0")
    adding = [subprocess.Popen([sys.executable, "-c", add, str(tmp_path)]) for _ in range(4)]
    assert [process.wait() for process in adding] == [0] * 4
    assert (tmp_path / "count").read_text() == "800"
    with lock_folder(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [".glassrt-folder.lock", "count"]
    assert os.listdir(tmp_path) == ["count"]
