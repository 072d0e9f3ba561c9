"""One batch at a time in an output folder: the lock that its process holds, and who holds it.

The operating system gives the lock up when the process ends, however it ends, and knows it in every container of a
machine and over NFS. Batches of parts (`--shard`) share the folder with each other, never with one of the whole.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from glassrt.engine.errors import UsageError
from glassrt.engine.files import output_errors
from glassrt.engine.production.journal import list_journals
from glassrt.engine.staging import PREFIX, names_file
from glassrt.engine.system import CLOSE_ON_EXEC, NO_FOLLOW, lock_file, read_at, write_at

TRIES, BETWEEN_S = 5, 0.1
LONGEST = 200  # bytes of what a lock file says


@contextmanager
def claim_folder(out: Path, part: str = "") -> Iterator[None]:
    """Hold the folder `out` for a batch, or for its `part`. Raises UsageError if another has it, OutputError.

    The lock file stays as long as there is a journal beside it.
    """
    path = out / f"{PREFIX}batch"
    with ExitStack() as stack:
        stack.enter_context(hold(path, bool(part), out))
        if part:
            stack.enter_context(hold(out / f"{path.name}-{part}", False, out))
        try:
            yield
        finally:
            if not part and not list_journals(out):
                path.unlink(missing_ok=True)


def is_claimed(out: Path) -> bool:
    """Whether a batch, or one of its parts, runs in the folder `out`."""
    for path in out.glob(f"{PREFIX}batch*"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | NO_FOLLOW | CLOSE_ON_EXEC)
            try:
                lock_file(descriptor, shared=True)
            except BlockingIOError:
                return True
            finally:
                os.close(descriptor)
    return False


def take(descriptor: int, shared: bool) -> bool:
    """Take a file's lock; whether it could be had. One who only looks holds it for a moment."""
    for _ in range(TRIES):
        try:
            lock_file(descriptor, shared)
        except BlockingIOError:
            time.sleep(BETWEEN_S)
        except OSError:
            return True  # a file system without locks keeps nobody out
        else:
            return True
    return False


@contextmanager
def hold(path: Path, shared: bool, out: Path) -> Iterator[int]:
    """Hold the lock of the file at `path`; one that another batch deletes meanwhile keeps nobody out."""
    while True:
        with output_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | NO_FOLLOW | CLOSE_ON_EXEC, 0o666)
        try:
            if not take(descriptor, shared):
                holder = read_at(descriptor, LONGEST, 0).decode(errors="replace").strip() or "another process"
                raise UsageError(f"{out} is being written by {holder}: wait for it, or choose another --out")
            if not names_file(path, descriptor):
                continue
            told = f"process {os.getpid()} on {socket.gethostname()} since {time.ctime()}\n"
            with output_errors(path):
                os.ftruncate(descriptor, 0)
                write_at(descriptor, told.encode(), 0)
            yield descriptor
            return
        finally:
            os.close(descriptor)
