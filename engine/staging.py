"""Half-written work beside its goal: whose it is, how it takes its place, what killed processes left of it.

A process owns what begins with a name of its own, `.glassrt-` and random digits, as long as it holds the lock of the
file of that name that ends in `.lock`. The operating system gives the lock up when the process ends, however it ends,
and knows it in every container of a machine and over NFS; host names and process numbers tell neither.
"""

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glassrt.engine.system import NO_FOLLOW, find_in_c, flush, lock_file

PREFIX = ".glassrt-"
LOCK, OLDER = ".lock", ".older"
LOCK_NAME = re.compile(r"\.glassrt-(folder|[0-9a-f]{16})\.lock")
LONG_AGO_S = 24 * 3600.0  # untouched for so long, work is nobody's, wherever its process ran
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # one for a machine and all its containers, new at every start
RENAME_EXCHANGE = 2  # linux/fs.h
AT_FDCWD = -100  # linux/fcntl.h


@contextmanager
def lock(path: Path) -> Iterator[int]:
    """Hold the lock of the file at `path` and yield its descriptor; the file stands there only meanwhile.

    Waits for whoever holds it. A file system without locks keeps nobody out. Raises OSError.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o666)
        with contextlib.suppress(OSError):  # of file systems without locks
            lock_file(descriptor, wait=True)
        if names_file(path, descriptor):
            break
        os.close(descriptor)  # the one before has deleted it just now
    try:
        yield descriptor
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from changing what `folder` holds of finished results. Raises OSError."""
    with lock(folder / f"{PREFIX}folder{LOCK}"):
        yield


@contextmanager
def own_name(folder: Path) -> Iterator[Path]:
    """Yield a path in `folder`: it, and what stands beside it under a longer name, are this process's. Raises OSError.

    Nothing stands there yet, and what does when the context ends stays until `clear_left` finds it.
    """
    stem = folder / f"{PREFIX}{secrets.token_hex(8)}"
    with lock(add_suffix(stem, LOCK)) as descriptor:
        os.write(descriptor, read_boot())
        yield stem


def clear_left(folder: Path) -> None:
    """Bring back what killed processes had moved aside in `folder` and remove what they left half-written."""
    for path in folder.glob(f"{PREFIX}*{LOCK}"):
        if LOCK_NAME.fullmatch(path.name):
            with contextlib.suppress(OSError):  # another process is at it, or may do what this one may not
                clear_one(path)


def clear_one(path: Path) -> None:
    """Do so with the work of one lock file. Raises OSError if it has an owner or the file system has no locks.

    The lock alone is believed only of processes of this machine: some network file systems keep locks to each.
    """
    descriptor = os.open(path, os.O_RDWR | NO_FOLLOW)
    try:
        lock_file(descriptor)
        if not names_file(path, descriptor):
            return
        stem = path.with_name(path.name.removesuffix(LOCK))
        older = add_suffix(stem, OLDER)
        for moved in older.iterdir() if older.is_dir() else ():
            if not os.path.lexists(folder_of(moved)):
                moved.rename(folder_of(moved))
        here = os.read(descriptor, 100)
        pieces = [piece for piece in path.parent.glob(f"{stem.name}*") if piece != path]
        if not pieces or (here and here == read_boot()) or time.time() - last_change([path, *pieces]) > LONG_AGO_S:
            for piece in pieces:
                remove(piece)
            path.unlink()
    finally:
        os.close(descriptor)


def folder_of(moved: Path) -> Path:
    """Where a folder stood that was moved aside."""
    return moved.parent.parent / moved.name


def last_change(pieces: list[Path]) -> float:
    """When something in `pieces` was last written, in seconds since 1970."""
    files = [*pieces, *(file for piece in pieces if not piece.is_symlink() for file in piece.rglob("*"))]
    return max(file.lstat().st_mtime for file in files)


def remove(piece: Path) -> None:
    """Delete a file, a link (not what it leads to) or a folder with all it holds."""
    if piece.is_dir() and not piece.is_symlink():
        shutil.rmtree(piece, ignore_errors=True)
    else:
        piece.unlink(missing_ok=True)


def take_place(new: Path, path: Path) -> None:
    """Put the folder `new` of this process at `path`; an older folder there is deleted after that. Raises OSError.

    There is a whole folder at `path` all the while; where the file system cannot swap two, a process that is killed in
    the middle leaves the older one where `clear_left` brings it back from.
    """
    if not path.exists():
        new.rename(path)
        flush(path.parent)
    elif exchange(new, path):
        flush(path.parent)
        remove(new)
    else:
        older = add_suffix(new, OLDER)
        older.mkdir()
        try:
            path.rename(older / path.name)
            try:
                new.rename(path)
            except BaseException:
                (older / path.name).rename(path)
                raise
            flush(path.parent)
        finally:
            remove(older)


def exchange(one: Path, other: Path) -> bool:
    """Swap what two paths name in one step; False where system or file system cannot."""
    renameat2 = find_in_c("renameat2")
    return renameat2 is not None and bool(
        renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0
    )


def names_file(path: Path, descriptor: int) -> bool:
    """Whether the file behind a descriptor still stands at `path`."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def add_suffix(path: Path, suffix: str) -> Path:
    """The path beside `path` whose name goes on with `suffix`."""
    return path.with_name(path.name + suffix)


def read_boot() -> bytes:
    """What tells this start of this machine from all others; nothing where the system does not say."""
    try:
        return BOOT_ID.read_bytes()
    except OSError:
        return b""
