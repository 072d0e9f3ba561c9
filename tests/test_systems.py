"""Scanner software stands on Windows. It was not run there; nothing is called that it lacks without another way."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from glassrt.engine import system

ENGINE = Path(__file__).parents[1] / "engine"
ONE_PLACE = ENGINE / "system.py"  # which has the other ways
LACKED = {  # by the standard library on Windows
    "os": {
        "pread", "preadv", "pwrite", "pwritev", "posix_fallocate", "fork", "forkpty", "killpg", "getuid", "geteuid",
        "getgid", "getegid", "getpgid", "setsid", "setpgid", "sched_getaffinity", "sched_setaffinity", "mkfifo",
        "mknod", "memfd_create",
        "statvfs", "fchmod", "fchown", "chown", "uname", "getloadavg", "sysconf", "wait3", "wait4",
        "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "MFD_CLOEXEC", "MFD_ALLOW_SEALING", "WNOHANG",
    },
    "signal": {
        "SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE", "alarm", "setitimer",
        "pthread_sigmask", "sigwait", "pause",
    },
    "socket": {"AF_UNIX", "socketpair", "send_fds", "recv_fds"},
}  # fmt: skip
NO_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog", "readline"}
NO_FILES = ("/proc/", "/dev/", "/sys/", "/tmp/", "/etc/")
# What is refused elsewhere in a line, or is asked only where it is there: with the reason why that holds.
GUARDED = {
    "service/memory.py": "refused with 501 where `memfd_create` is missing",
    "service/regions.py": "refused where there is no such folder",
    "service/listening.py": "a socket is refused where `AF_UNIX` is missing",
    "runtimes/isa.py": "read where it exists",
    "runtimes/device.py": "read where it exists",
    "staging.py": "read where it exists",
    "production/worker.py": "beside `find_in_c`, which finds nothing on Windows",
}


def uses(path: Path) -> Iterator[str]:
    """What a module calls, imports or names that Windows lacks."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in LACKED.get(node.value.id, ()):
                yield f"{node.value.id}.{node.attr}"
            if (node.value.id, node.attr) == ("os", "kill"):  # which ends a process there, whatever the number
                yield "os.kill"
        elif isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in NO_MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in {*LACKED, *NO_MODULES}:
            for each in node.names:
                if node.module in NO_MODULES or each.name in LACKED[node.module]:
                    yield f"{node.module}.{each.name}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(NO_FILES):
            yield node.value
        elif isinstance(node, ast.Call) and ast.unparse(node) == "ctypes.CDLL(None)":
            yield "ctypes.CDLL(None)"


def modules() -> list[Path]:
    return sorted(path for path in ENGINE.rglob("*.py") if path != ONE_PLACE and "examples" not in path.parts)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ENGINE)))
def test_nothing_is_used_that_windows_lacks(path: Path) -> None:
    found = sorted({*uses(path)})
    assert not found or str(path.relative_to(ENGINE)) in GUARDED, found


@pytest.mark.parametrize("name", GUARDED)
def test_what_is_excused_is_needed(name: str) -> None:
    assert [*uses(ENGINE / name)]


def test_the_walk_finds_what_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "import fcntl, os\nfrom signal import SIGKILL\nos.pread(0, 1, 0)\nos.kill(1, 0)\nopen('/proc/self')\n"
    )
    assert sorted(uses(tmp_path / "bad.py")) == ["/proc/self", "fcntl", "os.kill", "os.pread", "signal.SIGKILL"]


def test_the_other_ways_do_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    for name in ("pread", "preadv", "pwrite", "posix_fallocate", "killpg", "geteuid", "sched_getaffinity"):
        monkeypatch.delattr(os, name)
    descriptor = os.open(path, os.O_RDWR | system.BINARY)
    try:
        assert system.read_at(descriptor, 3, 4) == b"456"
        room = bytearray(4)
        assert system.read_into(descriptor, memoryview(room), 8) == 2
        assert room == b"89\0\0"
        assert system.write_at(descriptor, b"ab", 2) == 2
        assert system.read_at(descriptor, 99, 0) == b"01ab456789"
        for size in (20, 5):
            system.claim_room(descriptor, size)
            assert path.stat().st_size == 20
    finally:
        os.close(descriptor)
    assert system.user_number() == 0
    assert len(system.list_cores()) == (os.cpu_count() or 1)
