"""Files and folders that appear whole or not at all: written beside, flushed to disk, renamed."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from glassrt.engine.errors import FolderTaken, OutputError
from glassrt.engine.staging import (
    PREFIX,
    add_suffix,
    clear_left,
    lock_folder,
    own_name,
    remove,
    take_place,
)
from glassrt.engine.system import flush

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
OF_WRITING = (*FULL, errno.EROFS)  # what reading never fails with


def readable_json(content: Any) -> bytes:
    """Indented JSON that ends with a line break."""
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def write_json(path: Path, content: Any) -> None:
    """Write a struct or plain values as indented JSON."""
    path.write_bytes(readable_json(content))


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a path to write; on success it becomes `path` in one step, on failure it is removed.

    Where `path` is a link, the file that it leads to is replaced. Raises OutputError when the disk is full, the folder
    cannot be written, or something other than a file stands there.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is not a file that could be replaced; choose another")
    with half_written(path, path.suffix, lambda beside: beside.touch(exist_ok=False)) as beside:
        yield beside
        with output_errors(path):
            flush(beside)
            beside.replace(path)
            flush(path.parent)


@contextmanager
def replace_folder(path: Path, marker: str, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it becomes `path` in one step, on failure it is removed.

    An older folder at `path` stays until the new one is complete. It is replaced only if it is empty or holds
    a file named `marker`, as the new one will: anything else is not ours to delete, such as the data folder
    that stands beside a MIRAX slide, or what a link leads to. `check` may have more against it: it is called before
    anything is written, and again when no other process can change what stands there any more. Raises FolderTaken,
    and OutputError as `replace_file` does.
    """
    clear_left(path.parent)
    refuse_foreign(path, marker)
    check()
    with half_written(path, "", Path.mkdir) as beside:
        yield beside
        with output_errors(path):
            for file in beside.rglob("*"):
                flush(file)
            flush(beside)
            with lock_folder(path.parent):
                refuse_foreign(path, marker)
                check()
                take_place(beside, path)


@contextmanager
def half_written(path: Path, suffix: str, make: Callable[[Path], None]) -> Iterator[Path]:
    """Yield what `make` made beside `path`; it is removed in the end, unless it has taken its place."""
    with ExitStack() as stack:
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = add_suffix(stack.enter_context(own_name(path.parent)), suffix)
            stack.callback(remove, beside)
            make(beside)
        with output_errors(path, beside):
            yield beside


def refuse_foreign(path: Path, marker: str) -> None:
    """Raise FolderTaken if something stands at `path` that is neither empty nor a folder with a file `marker`."""
    if path.is_symlink():
        raise FolderTaken(f"{path} is a link, which results do not replace; choose another --out")
    if path.exists() and not (path.is_dir() and ((path / marker).is_file() or not any(path.iterdir()))):
        raise FolderTaken(f"{path} stands in the way and was not written by GlassRT; choose another --out")


def prepare_folder(folder: Path) -> None:
    """Make `folder` where it is missing; what killed processes left half-written in it is removed or brought back.

    Raises OutputError unless files can be made there.
    """
    if folder.is_symlink() and not folder.exists():
        raise OutputError(f"{folder} is a link that leads nowhere; choose another --out")
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix=PREFIX, dir=folder):
            pass
    clear_left(folder)


@contextmanager
def output_errors(path: Path, filling: Path | None = None) -> Iterator[None]:
    """Turn what the operating system says of a failed write of `path` into one clear line.

    While something else fills the file or folder `filling`, other things happen too, such as reading a slide: then only
    errors are turned that name a file of it or that reading cannot meet.
    """
    try:
        yield
    except OSError as error:
        if filling is not None and error.errno not in OF_WRITING and not is_about(error, filling):
            raise
        if error.errno in FULL:
            raise OutputError(f"{path}: no space left to write it; free some or choose another --out") from error
        if error.errno in FORBIDDEN:
            raise OutputError(f"{path}: no permission to write here; choose another --out") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise OutputError(f"{path}: a file stands where a folder is needed; choose another --out") from error
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error


def is_about(error: OSError, place: Path) -> bool:
    """Whether an error names the file or folder `place`, or something in it."""
    named = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return any(path == place or place in path.parents for path in named)


def is_same_file(one: Path | str, other: Path | str) -> bool:
    """Whether two paths lead to one file, also if neither exists any more."""
    try:
        return os.path.realpath(one) == os.path.realpath(other) or os.path.samefile(one, other)
    except (OSError, ValueError):
        return False
