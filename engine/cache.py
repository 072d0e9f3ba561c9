"""Where native code is kept between runs: a folder of the user's alone, as what lies there runs with their rights."""

import errno
import os
import stat
from pathlib import Path
from typing import NoReturn

from glassrt.engine.errors import OutputError
from glassrt.engine.files import prepare_folder, replace_file
from glassrt.engine.system import BINARY, NO_FOLLOW, NON_BLOCK, user_number

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
FOR_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def default_folder() -> Path:
    """Where plans are kept: `$GLASSRT_CACHE/plans`, else in the user's cache folder. Raises OutputError."""
    own, shared = os.environ.get("GLASSRT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        base = Path(own) if own else Path(shared or "~/.cache").expanduser() / "glassrt"
    except RuntimeError as error:
        raise OutputError("plans cannot be kept: there is no home folder: set GLASSRT_CACHE") from error
    return base / "plans"


def make_folder(folder: Path) -> None:
    """Make a folder of the cache for the user alone. Raises OutputError where it cannot be written or is not theirs."""
    try:
        for each in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
            each.mkdir(PRIVATE_FOLDER, exist_ok=True)
        check_folder(folder)
        prepare_folder(folder)
        folder.chmod(PRIVATE_FOLDER)
    except OSError as error:
        raise OutputError(f"{folder}: plans cannot be kept here ({error}): set GLASSRT_CACHE") from error
    except OutputError as error:
        if error.__cause__ is None:
            raise
        raise OutputError(f"{folder}: plans cannot be kept here ({error.__cause__}): set GLASSRT_CACHE") from error


def keep(path: Path, content: bytes) -> None:
    """Write a file of the cache whole or not at all, for the user alone. Raises OutputError."""
    try:
        with replace_file(path) as beside:
            beside.write_bytes(content)
            beside.chmod(PRIVATE_FILE)
        path.chmod(PRIVATE_FILE)
    except OSError as error:
        raise OutputError(f"{path} cannot be kept ({error}): set GLASSRT_CACHE") from error
    except OutputError as error:
        raise OutputError(f"{path} cannot be kept ({error.__cause__ or error}): set GLASSRT_CACHE") from error


def read(path: Path) -> bytes:
    """A file of the cache. Raises OSError, and OutputError if anyone but the user could have written it."""
    check_folder(path.parent)
    flags = os.O_RDONLY | NO_FOLLOW | NON_BLOCK | BINARY
    try:
        file = os.fdopen(os.open(path, flags), "rb")
    except OSError as error:
        if error.errno == errno.ELOOP:
            refuse(path, "is a link")
        raise
    with file:
        found = os.fstat(file.fileno())  # of what was opened, whatever its name stands for by now
        check_owner(path, found)
        if not stat.S_ISREG(found.st_mode):
            refuse(path, "is no file")
        return file.read()


def check_folder(folder: Path) -> None:
    """Raise OutputError if anyone but the user can put files into a folder, or replace it; FileNotFoundError."""
    real = folder.resolve()
    check_owner(folder, real.stat())
    for parent in real.parents if os.name == "posix" else ():
        found = parent.stat()
        near = parent == real.parent
        writable = found.st_mode & (FOR_OTHERS if near else stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
        if writable or (near and found.st_uid not in (user_number(), 0)):
            refuse(folder, f"lies in {parent}, where others can replace it,")


def check_contents(folder: Path) -> None:
    """As `check_folder`, and for every file in it: for folders that a library reads by itself."""
    check_folder(folder)
    for path in folder.iterdir():
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            refuse(path, "is no file")
        check_owner(path, found, stat.S_IWOTH)  # the library writes as the umask says, into a folder of mode 0700


def check_owner(path: Path, found: os.stat_result, forbidden: int = FOR_OTHERS) -> None:
    """Raise OutputError unless a file or folder is the user's and, but for them, may not be written."""
    if os.name != "posix":
        return
    if found.st_uid != user_number():
        refuse(path, f"belongs to another user (number {found.st_uid})")
    if found.st_mode & forbidden:
        refuse(path, f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o})")


def refuse(path: Path, why: str) -> NoReturn:
    """Raise OutputError: what is kept there runs with the user's rights."""
    raise OutputError(
        f"{path} {why} and holds native code, which is not run then: remove it, or set GLASSRT_CACHE to a folder of "
        "your own that only you can write"
    )
