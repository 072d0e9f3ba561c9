"""Which slide a result is of: what `result.json` says of the slide's file."""

import os
from pathlib import Path
from typing import Any

import msgspec

from glassrt.engine.errors import FolderTaken

RESULT = "result.json"


class Stored(msgspec.Struct):
    """What is read of `result.json` here."""

    slide: dict[str, Any]


def describe_origin(path: Path | None) -> dict[str, str | None]:
    """A slide's file in `result.json`: as it was given, its absolute path, and the file that links in it lead to."""
    if path is None:
        return {"given": None, "path": None, "file": None}
    return {"given": str(path), "path": os.path.abspath(path), "file": os.path.realpath(path)}


def read_origin(folder: Path) -> str:
    """The file whose result `folder` holds, without links; nothing where it does not say."""
    try:
        stored = msgspec.json.decode((folder / RESULT).read_bytes(), type=Stored)
    except (OSError, msgspec.MsgspecError):
        return ""
    return str(stored.slide.get("file") or "")


def refuse_other(folder: Path, path: Path | None, known: bool = False) -> None:
    """Raise FolderTaken if `folder` holds the result of another slide than the one at `path`.

    A result that does not say of which slide it is may be replaced unless it has to be `known`, and anything may where
    `path` is None: then the caller alone can tell.
    """
    if path is None or not (folder / RESULT).is_file():
        return
    file = read_origin(folder)
    if not file and known:
        raise FolderTaken(f"{folder} holds a result that does not say of which slide; choose another --out for {path}")
    if file and not is_same_file(file, path):
        raise FolderTaken(f"{folder} holds the result of {file}; choose another --out for {path}")


def is_same_file(one: Path | str, other: Path | str) -> bool:
    """Whether two paths lead to one file, also if neither exists any more."""
    try:
        return os.path.realpath(one) == os.path.realpath(other) or os.path.samefile(one, other)
    except (OSError, ValueError):
        return False
