"""What systems do in ways of their own: files at positions, locks, memory, processes. All of it works on Windows, too,
or says what is done there.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

# How a file is opened, where a system knows it; Windows alone changes line ends in files that are not BINARY.
NO_FOLLOW, NON_BLOCK, CLOSE_ON_EXEC, BINARY = (
    int(getattr(os, name, 0)) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY")
)
LOCKED_BYTE = 1 << 30  # of a lock file, on Windows: far behind what it says
_position = threading.Lock()  # where files have one position that threads share


def read_at(descriptor: int, count: int, offset: int) -> bytes:
    """At most `count` bytes of a file from `offset`. Threads may read at once. Raises OSError."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, count, offset)
    with _position:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, count)


def read_into(descriptor: int, room: memoryview, offset: int) -> int:
    """Fill `room` from a file, and how many bytes of it that was. Raises OSError."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [room], offset)
    content = read_at(descriptor, len(room), offset)
    room[: len(content)] = content
    return len(content)


def write_at(descriptor: int, content: "bytes | memoryview", offset: int) -> int:
    """Write bytes of a file from `offset` on, and how many that were. Raises OSError."""
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, content, offset)
    with _position:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, content)


def lock_file(descriptor: int, shared: bool = False, wait: bool = False) -> None:
    """Lock an open file until it is closed. Raises BlockingIOError where another has it and nobody is to `wait`, and
    OSError where the file system has no locks. Windows has none that are shared: they keep nobody out there.
    """
    if sys.platform == "win32":
        import msvcrt

        if shared:
            return
        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(*error.args) from error
    else:
        import fcntl

        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def flush(path: Path) -> None:
    """Have it on disk what a file holds, or which files a folder does (as Windows has by itself). Raises OSError."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def claim_room(descriptor: int, size: int) -> None:
    """Give a file that is open to write so many bytes at least. Raises OSError where the disk has not got them, as far
    as the system tells before they are written.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    elif os.fstat(descriptor).st_size < size:
        os.ftruncate(descriptor, size)


def find_in_c(name: str) -> Any:
    """A function of the C library that this process has loaded; None where it has none of this name."""
    if os.name == "nt":
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), name, None)


def give_back() -> None:
    """Have the C library give memory back that was freed, where it keeps that."""
    if trim := find_in_c("malloc_trim"):
        trim(0)


def user_number() -> int:
    """The number of the user that this process runs as; 0 where users have none."""
    return os.geteuid() if hasattr(os, "geteuid") else 0


def list_cores() -> list[int]:
    """The numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def keep_to(cores: "tuple[int, ...]") -> None:
    """Use these cores alone, where that can be said."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def end_group(process: "subprocess.Popen[Any]") -> None:
    """End a process that has a session of its own at once, with whatever it has started; on Windows it alone."""
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def was_killed(code: int) -> bool:
    """Whether an exit code is that of a process that was ended at once from outside."""
    return hasattr(signal, "SIGKILL") and code == -signal.SIGKILL
