"""Where slides lie that are on no disk here: addresses that fsspec knows (s3, gs, https and others), and slow disks.

Credentials are those of the environment, as each service's own tools find them.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from glassrt.engine.errors import SlideError, UsageError, first_line
from glassrt.engine.files import FULL

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
VERSIONS = (
    "ETag", "etag", "Content-MD5", "Digest", "LastModified", "Last-Modified", "last_modified", "mtime", "generation",
    "md5Hash",
)  # fmt: skip
IN_FOLDER = (".mrxs",)  # slides whose pixels lie in a folder of their name
BESIDE = {".dcm": (".dcm",), ".vms": (".jpg", ".opt", ".vms"), ".vmu": (".jpg", ".opt", ".vmu")}  # and beside them


class Part(NamedTuple):
    """A file of a slide: its path in a file system of fsspec, what it is called in a copy, its bytes, and what tells
    it from what was there before.
    """

    system: Any
    path: str
    name: str
    size: int
    version: str

    def copy(self, folder: Path) -> None:
        """Copy it into `folder`. Raises SlideError if not all of it came; OSError where it cannot be written."""
        to = folder / self.name
        to.parent.mkdir(parents=True, exist_ok=True)
        with told_plainly(self.path):
            self.system.get_file(self.path, str(to))
        if to.stat().st_size != self.size:
            raise SlideError(f"{self.path}: {to.stat().st_size} bytes of {self.size} came; is it being written?")


def is_address(text: str) -> bool:
    """Whether a text names what is on no disk here."""
    return bool(ADDRESS.match(text))


def find_parts(address: str) -> list[Part]:
    """The files of a slide, the one that was named first. Raises SlideError."""
    with told_plainly(address):
        system, path = open_system(address)
        first = describe(system, system.info(path), path, base(path))
        suffix = Path(first.name).suffix.lower()
        if suffix in IN_FOLDER:
            folder = f"{path[: -len(suffix)]}/"
            found = system.find(folder, detail=True)
            inside = Path(first.name).stem
            return [
                first,
                *(describe(system, told, each, f"{inside}/{each.split(folder)[-1]}") for each, told in found.items()),
            ]
        if suffix in BESIDE:
            found = {told["name"]: told for told in system.ls(path.rsplit("/", 1)[0], detail=True)}
            wanted = [each for each in found if each.lower().endswith(BESIDE[suffix]) and base(each) != first.name]
            return [first, *(describe(system, found[each], each, base(each)) for each in wanted)]
        return [first]


def list_beside(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files of a slide on a disk here but for the one that names it, and what the disk tells of them."""
    suffix = path.suffix.lower()
    found: Iterable[Path] = ()
    if suffix in IN_FOLDER:
        found = path.with_suffix("").rglob("*")
    elif suffix in BESIDE:
        found = (each for each in path.parent.iterdir() if each.suffix.lower() in BESIDE[suffix] and each != path)
    for each in sorted(found):
        told = each.stat()
        if stat.S_ISREG(told.st_mode):
            yield each, told


def list_places(address: str, suffixes: frozenset[str]) -> list[str]:
    """The slides that an address means: itself, those in what ends in a slash, or those that match a pattern.

    Raises UsageError where it means none, SlideError where that cannot be told.
    """
    if not address.endswith("/") and not any(each in address for each in "*["):
        return [address]
    with told_plainly(address):
        system, path = open_system(address)
        found = system.find(path) if address.endswith("/") else system.glob(path)
    slides = sorted(each for each in found if Path(each).suffix.lower() in suffixes)
    if not slides:
        raise UsageError(f"{address}: no slides here, of {', '.join(sorted(suffixes))}: name another place or --suffix")
    return [system.unstrip_protocol(each) for each in slides]


def identify(address: str) -> str:
    """What tells what lies at an address from what lay there before; nothing where it cannot be reached."""
    try:
        return "\n".join(f"{part.name} {part.size} {part.version}" for part in find_parts(address))
    except SlideError:
        return ""


def open_system(address: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it. Raises whatever fsspec does."""
    url_to_fs = import_module("fsspec.core").url_to_fs

    system, path = url_to_fs(address, use_listings_cache=False) if is_address(address) else url_to_fs(address)
    return system, str(path)


def describe(system: Any, told: dict[str, Any], path: str, name: str) -> Part:
    """A file as fsspec tells of it."""
    if told.get("type") == "directory" or ".." in Path(name).parts:
        raise SlideError(f"{path}: not a file")
    if told.get("size") is None:
        raise SlideError(f"{path}: its server does not say how large it is; fetch it yourself")
    return Part(system, path, name, int(told["size"]), " ".join(str(told[each]) for each in VERSIONS if each in told))


def base(path: str) -> str:
    """The name of a file, without what a web address has behind it."""
    return path.split("?")[0].rstrip("/").rsplit("/", 1)[-1]


@contextmanager
def told_plainly(address: str) -> Iterator[None]:
    """Whatever a service's package raises, as one line."""
    try:
        yield
    except SlideError:
        raise
    except OSError as error:
        if error.errno in FULL:
            raise
        raise explain(address, error) from error
    except ImportError as error:
        raise SlideError(f"{address}: needs a package ({first_line(error)}): pip install 'glassrt[remote]'") from error
    except Exception as error:  # of aiohttp, botocore, google.auth and others: they share no base but this
        raise SlideError(f"{address}: cannot be fetched ({type(error).__name__}: {first_line(error)})") from error


def explain(address: str, error: OSError) -> SlideError:
    """What failed, in a line."""
    if isinstance(error, FileNotFoundError):
        return SlideError(f"{address} does not exist")
    if isinstance(error, PermissionError):
        return SlideError(f"{address}: no permission to read it ({first_line(error)})")
    return SlideError(f"{address}: cannot be fetched ({first_line(error)})")
