"""Names that make files and folders of their own, one for each slide."""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from glassrt.engine.errors import FolderTaken, UsageError
from glassrt.engine.files import refuse_foreign
from glassrt.engine.production.journal import Row
from glassrt.engine.production.places import is_address
from glassrt.engine.results.origin import RESULT, refuse_other
from glassrt.engine.results.summary import SUMMARY
from glassrt.engine.slides.openslide_file import read_series
from glassrt.engine.staging import PREFIX


def check_names(paths: Sequence[Path], table: str = SUMMARY) -> None:
    """Raise UsageError if slides' names do not make folders of their own, beside the `table` of all.

    Names that differ in case only are one to Windows and macOS, where results may lie or be copied to.
    """
    owners: dict[str, Path] = {}
    for path in paths:
        if not is_unicode(str(path)):
            raise UsageError(f"{str(path)!r}: the name is no valid UTF-8, which result files need; rename it")
        if path.stem in ("", ".", "..") or path.stem.startswith(PREFIX):
            raise UsageError(f"{path}: no folder of results can have its name; rename the slide")
        if fold(path.stem) == table:
            raise UsageError(f"{path}: its folder would stand where {table} belongs; rename the slide")
        other = owners.setdefault(fold(path.stem), path)
        if other is not path and other.stem == path.stem:
            raise UsageError(
                f"{other} and {path} would both write to the folder {path.stem}: score them with two --out"
            )
        if other is not path:
            raise UsageError(f"{other} and {path} differ in case only, which not every disk does: use two --out")


def check_series(paths: Iterable[Path]) -> None:
    """Raise UsageError if two files are of one DICOM series, which is one slide."""
    folders: dict[str, list[Path]] = {}
    for path in paths:
        if path.suffix.lower() == ".dcm":
            folders.setdefault(os.path.realpath(path.parent), []).append(path)
    for files in folders.values():
        owners: dict[str, Path] = {}
        for path in files if len(files) > 1 else ():
            series = read_series(path)
            if series and owners.setdefault(series, path) is not path:
                raise UsageError(
                    f"{owners[series]} and {path} are of one DICOM series, one slide: name one of its files"
                )


def check_folders(out: Path, rows: Sequence[Row]) -> None:
    """Raise FolderTaken if what stands in the output folder is not for the slides of these rows to replace."""
    alike: dict[str, set[str]] = {}
    for each in out.iterdir() if rows else ():
        alike.setdefault(fold(each.name), set()).add(each.name)
    for row in rows:
        if others := alike.get(fold(row.id), set()) - {row.id}:
            raise FolderTaken(
                f"{out / min(others)} differs from the name of {row.address} in case only, which not every disk does: "
                "choose another --out"
            )
        refuse_foreign(out / row.id, RESULT)
        refuse_other(out / row.id, row.address if is_address(row.address) else Path(row.address), known=True)


def fold(name: str) -> str:
    """What file systems that ignore case and ways to write accents see of a name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def is_unicode(text: str) -> bool:
    """Whether a file's name is text that can be written down again."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
