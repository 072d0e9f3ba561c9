"""Files and folders that appear whole or not at all: written beside, flushed to disk, renamed."""

import errno
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from glassrt.engine.errors import OutputError

STAGING_PREFIX = ".glassrt-"


def readable_json(content: Any) -> bytes:
    """Indented JSON that ends with a line break."""
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a path to write; on success it becomes `path` in one step, on failure it is removed.

    Raises OutputError when the disk is full or the folder cannot be written.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=staging_prefix(), suffix=path.suffix, dir=path.parent)
        os.close(descriptor)
    beside = Path(name)
    try:
        with output_errors(path, while_filling=True):
            yield beside
            beside.chmod(0o666 & ~current_umask())
            flush_to_disk(beside)
            beside.replace(path)
            flush_to_disk(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def replace_folder(path: Path, marker: str) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it becomes `path` in one step, on failure it is removed.

    An older folder at `path` stays until the new one is complete. It is replaced only if it is empty or holds
    a file named `marker`, as the new one will: anything else is not ours to delete, such as the data folder
    that stands beside a MIRAX slide. Raises OutputError then, and as `replace_file` does.
    """
    refuse_foreign(path, marker)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=staging_prefix(), dir=path.parent))
    try:
        with output_errors(path, while_filling=True):
            yield beside
            beside.chmod(0o777 & ~current_umask())
            for file in beside.rglob("*"):
                flush_to_disk(file)
            flush_to_disk(beside)
            with set_aside(path):
                beside.rename(path)
            flush_to_disk(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def set_aside(path: Path) -> Iterator[None]:
    """Move what stands at `path` out of the way; on success it is removed, on failure it comes back."""
    aside = Path(tempfile.mkdtemp(prefix=staging_prefix(), dir=path.parent))
    older = aside / path.name
    try:
        if path.exists():
            path.rename(older)
        try:
            yield
        except BaseException:
            if older.exists():
                older.rename(path)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def refuse_foreign(path: Path, marker: str) -> None:
    """Raise OutputError if something stands at `path` that is neither empty nor a folder with a file `marker`."""
    if path.exists() and not (path.is_dir() and ((path / marker).is_file() or not any(path.iterdir()))):
        raise OutputError(f"{path} stands in the way and was not written by GlassRT; choose another --out")


def prepare_folder(folder: Path) -> None:
    """Make `folder` where it is missing, and remove what killed processes left half-written in it.

    Raises OutputError unless files can be made there.
    """
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix=staging_prefix(), dir=folder):
            pass
    for left in folder.glob(f"{STAGING_PREFIX}{socket.gethostname()}-*"):
        owner = left.name.removeprefix(f"{STAGING_PREFIX}{socket.gethostname()}-").split("-")[0]
        if owner.isdigit() and not is_running(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
            left.unlink(missing_ok=True)


def staging_prefix() -> str:
    """The beginning of the names of half-written files: it tells whose they are."""
    return f"{STAGING_PREFIX}{socket.gethostname()}-{os.getpid()}-"


def is_running(process: int) -> bool:
    """Whether a process of this number exists on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def output_errors(path: Path, while_filling: bool = False) -> Iterator[None]:
    """Turn what the operating system says of a failed write into one clear line.

    `while_filling`, other things happen inside, so only errors that speak of writing are turned.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutputError(f"{path}: no space left to write it; free some or choose another --out") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise OutputError(f"{path}: no permission to write here; choose another --out") from error
        if while_filling:
            raise
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise OutputError(f"{path}: a file stands where a folder is needed; choose another --out") from error
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error


def flush_to_disk(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def current_umask() -> int:
    """The process's umask; the operating system only tells it when it is set."""
    umask = os.umask(0)
    os.umask(umask)
    return umask
