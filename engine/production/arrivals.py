"""Slides that appear in a folder while a scanner writes them: which are whole."""

import configparser
import time
from pathlib import Path

from glassrt.engine.production.entries import find_in_folder
from glassrt.engine.production.places import list_beside

Signature = tuple[tuple[str, int, int], ...]  # of each file its path, bytes and time of change
MRXS_INDEX = "Slidedat.ini"


class Arrivals:
    """Watches `folder`, and those within, for slides that end in one of the `suffixes`.

    A slide is whole when its files have not changed for `settle_s` seconds and all that it says it has are there.
    """

    def __init__(self, folder: Path, suffixes: frozenset[str], settle_s: float) -> None:
        self._folder, self._suffixes, self._settle_s = folder, suffixes, settle_s
        self._seen: dict[Path, tuple[Signature, float]] = {}
        self._told: dict[Path, Signature] = {}

    def look(self) -> list[Path]:
        """The slides that have become whole since the last look, or whose files have changed and are whole again."""
        now, whole = time.monotonic(), []
        for path in sorted(find_in_folder(self._folder, self._suffixes)):
            signature = sign(path)
            if self._told.get(path) == signature:
                continue
            known, since = self._seen.get(path, ((), now))
            if known != signature:
                self._seen[path] = signature, now
                since = now
            if signature and now - since >= self._settle_s and not find_missing(path):
                self._told[path] = signature
                del self._seen[path]
                whole.append(path)
        return whole


def sign(path: Path) -> Signature:
    """What tells that a slide's files have changed; nothing while one of them vanishes."""
    try:
        files = [(path, path.stat()), *list_beside(path)]
    except OSError:
        return ()
    return tuple((str(each), told.st_size, told.st_mtime_ns) for each, told in files)


def find_missing(path: Path) -> str:
    """A file that a MIRAX slide says it has and that is not there; nothing if all are."""
    if path.suffix.lower() != ".mrxs":
        return ""
    folder = path.with_suffix("")
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        parser.read_string((folder / MRXS_INDEX).read_text(encoding="utf-8-sig", errors="replace"))
        count = parser.getint("DATAFILE", "FILE_COUNT")
        named = [parser.get("HIERARCHICAL", "INDEXFILE"), *(parser.get("DATAFILE", f"FILE_{n}") for n in range(count))]
    except (OSError, configparser.Error, ValueError):
        return MRXS_INDEX
    return next((name for name in named if not (folder / name).is_file()), "")
