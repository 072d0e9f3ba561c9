"""Whose a folder is: a result's, and of which slide, as `result.json` says."""

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from glassrt.engine.bundles.regular_file import LARGEST_TEXT, read_file
from glassrt.engine.errors import BundleError, FolderTaken
from glassrt.engine.files import is_same_file, output_errors

RESULT = "result.json"
OF_BAGS = (
    "features.h5",
    "attention.png",
    "top_tiles.png",
    "tiles.csv",
)  # beside the others where a slide is a bag of tiles
FILES = (RESULT, "map.ome.tif", "regions.geojson", "overlay.png", *OF_BAGS)  # all that a result's folder holds

Kind = TypeVar("Kind")


class Stored(msgspec.Struct):
    """What is read of `result.json` here."""

    slide: dict[str, Any]


def describe_origin(path: Path | str | None) -> dict[str, str | None]:
    """A slide's file in `result.json`: as it was given, its absolute path, and the file that links in it lead to. An
    address elsewhere, a text, is all three.
    """
    if path is None or isinstance(path, str):
        return {"given": path, "path": path, "file": path}
    return {"given": str(path), "path": os.path.abspath(path), "file": os.path.realpath(path)}


def read_stored(folder: Path, kind: type[Kind]) -> Kind | None:
    """What `folder/result.json` says; None where it is no regular file of a result's size or says something else."""
    try:
        return msgspec.json.decode(read_file(folder / RESULT, LARGEST_TEXT), type=kind)
    except (BundleError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def read_origin(folder: Path) -> str:
    """The file whose result `folder` holds, without links; nothing where it does not say."""
    stored = read_stored(folder, Stored)
    return str(stored.slide.get("file") or "") if stored else ""


def refuse_other(folder: Path, path: Path | str | None, known: bool = False) -> None:
    """Raise FolderTaken if `folder` holds the result of another slide than the one at `path`, or more than a result.

    A result that does not say of which slide it is may be replaced unless it has to be `known`, and anything may where
    `path` is None: then the caller alone can tell.
    """
    if not (folder / RESULT).is_file():
        return
    with output_errors(folder):
        more = [each.name for each in folder.iterdir() if each.name not in FILES or not each.is_file()]
    if more:
        raise FolderTaken(
            f"{folder} holds {min(more)!r}, which is not of a result and would be lost; move it or choose another --out"
        )
    if path is None:
        return
    file = read_origin(folder)
    if not file and known:
        raise FolderTaken(f"{folder} holds a result that does not say of which slide; choose another --out for {path}")
    if file and not is_same_file(file, path):
        raise FolderTaken(f"{folder} holds the result of {file}; choose another --out for {path}")
