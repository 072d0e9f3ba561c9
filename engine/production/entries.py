"""Which slides a batch is of: files, folders, patterns and addresses that were named, or the rows of a manifest."""

import csv
import glob
import hashlib
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from glassrt.engine.bundles.regular_file import read_file
from glassrt.engine.errors import BundleError, UsageError
from glassrt.engine.production.names import check_series, fold, is_unicode
from glassrt.engine.production.places import base, is_address, list_places
from glassrt.engine.slides.image_file import IMAGE_SUFFIXES
from glassrt.engine.slides.openslide_file import read_series
from glassrt.engine.slides.resolution import PLAUSIBLE_MPP
from glassrt.engine.staging import PREFIX

SLIDE_SUFFIXES = frozenset((
    ".svs", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".czi", ".dcm", *IMAGE_SUFFIXES
))  # fmt: skip
LARGEST_MANIFEST = 1 << 28  # bytes
KNOWN = ("path", "id", "mpp", "bundle")  # columns that say how a slide is scored; the others are carried through
DIGITS = 6
OURS = re.compile(r"(journal|summary|report)\b.*\.(sqlite|csv|html)")  # in a folder of results
LONGEST_ID = 255  # bytes of a name


class Entry(NamedTuple):
    """One slide: the name of its folder, where it lies as it was named, and what replaces its resolution and the
    batch's bundle.

    `columns` are carried through to the summary. `line` is that of the manifest, 0 of what was `named` by itself, or
    found in a folder or by a pattern.
    """

    id: str
    address: str
    mpp: float | None = None
    bundle: str | None = None
    columns: Mapping[str, str] = {}
    line: int = 0
    named: bool = False

    @property
    def place(self) -> str:
        """Where it lies, wherever it is named from."""
        return self.address if is_address(self.address) else os.path.abspath(self.address)


def list_entries(
    named: Sequence[str], manifest: Path | None, suffixes: Sequence[str], known: Mapping[str, str]
) -> list[Entry]:
    """The slides that were named, each once, then those of a manifest.

    Folders are searched for files that end in one of the `suffixes`, by default those of slides. `known` are the ids
    that slides had before by their places, which they keep. Raises UsageError, with its line for a manifest, for what
    is not there or cannot be named apart.
    """
    wanted = frozenset(suffix.lower() for suffix in suffixes) or SLIDE_SUFFIXES
    found = (Entry("", address, named=address == each) for each in named for address in find_files(each, wanted))
    entries = list({entry.place: entry for entry in found}.values())
    if manifest is not None:
        entries += read_manifest(manifest)
    if not entries:
        raise UsageError("no slides: name files, folders or patterns, or a --manifest")
    for entry in entries:
        if not is_unicode(entry.place):
            raise UsageError(f"{entry.place!r}: the name is no valid UTF-8, which result files need; rename it")
    check_series(Path(entry.address) for entry in entries if not is_address(entry.address))
    return name_apart(entries, known)


def find_files(named: str, suffixes: frozenset[str]) -> Iterator[str]:
    """The files that an argument means. Raises UsageError where it means none."""
    if is_address(named):
        yield from list_places(named, suffixes)
        return
    if os.path.isfile(named):
        yield named
        return
    if os.path.isdir(named):
        found = sorted(find_in_folder(Path(named), suffixes))
        if not found:
            raise UsageError(
                f"{named}: no slides here, of {', '.join(sorted(suffixes))}: name another folder or --suffix"
            )
        yield from map(str, found)
    elif glob.has_magic(named) and (matches := sorted(glob.glob(named, recursive=True))):
        yield from (each for match in matches for each in find_files(match, suffixes))
    else:
        yield named  # which is told of as a slide that does not exist


def find_in_folder(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    """The slides in a folder and those within, without hidden ones; of a DICOM series one file."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        series: set[str] = set()
        for name in sorted(files):
            path = Path(place, name)
            if name.startswith(".") or path.suffix.lower() not in suffixes:
                continue
            if path.suffix.lower() == ".dcm":
                uid = find_series(path)
                if uid in series:
                    continue
                series |= {uid} if uid else set()
            yield path


def find_series(path: Path) -> str | None:
    """The series of a DICOM file, which is read once as long as the file stays the same."""
    try:
        told = path.stat()
    except OSError:
        return None
    return series_of(path, told.st_size, told.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def series_of(path: Path, size: int, changed: int) -> str | None:
    """The series of a file of that size, last changed then."""
    return read_series(path)


def read_manifest(path: Path) -> Iterator[Entry]:
    """The rows of a CSV file with the column `path`, relative ones from its folder. Raises UsageError with the line."""
    try:
        text = read_file(path, LARGEST_MANIFEST).decode("utf-8-sig")
    except BundleError as error:
        raise UsageError(f"{path} cannot be read, or has over {LARGEST_MANIFEST} bytes") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start}): save it as CSV in UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = reader.fieldnames or []
        if "path" not in columns:
            raise UsageError(f"{path}: no column `path` in line 1, which has {', '.join(columns)[:200] or 'none'}")
        for row in reader:
            yield read_row(row, path, reader.line_num)
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num + 1}: {error}") from error


def read_row(row: Mapping[str | None, str | None], manifest: Path, line: int) -> Entry:
    """One row's slide. Raises UsageError."""
    where = f"{manifest}, line {line}"
    if None in row or None in row.values():
        raise UsageError(f"{where}: as many cells as columns are needed")
    cells = {str(name): str(value) for name, value in row.items()}
    address = cells["path"].strip()
    if not address or "\0" in address:
        raise UsageError(f"{where}: `path` is {'no path' if address else 'empty'}")
    if not is_address(address):
        address = str(manifest.parent / address)
    mpp = None
    if told := cells.get("mpp", "").strip():
        try:
            mpp = float(told)
        except ValueError:
            mpp = -1.0
        if not PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]:
            raise UsageError(
                f"{where}: `mpp` is {told[:40]!r}, expected micrometres per pixel, {PLAUSIBLE_MPP[0]:g} "
                f"to {PLAUSIBLE_MPP[1]:g}"
            )
    bundle = cells.get("bundle", "").strip() or None
    if bundle is not None:
        if "\0" in bundle:
            raise UsageError(f"{where}: `bundle` is no path")
        bundle = str(manifest.parent / bundle)
    id = cells.get("id", "").strip()
    if id and (fault := find_fault(id)):
        raise UsageError(f"{where}: the id {id[:60]!r} {fault}")
    return Entry(id, address, mpp, bundle, {name: cells[name] for name in cells if name not in KNOWN}, line)


def find_fault(id: str, given: bool = True) -> str:
    """Why a folder of results cannot be called so; nothing if it can. One that was `given` has to be shown as it is."""
    if not is_unicode(id):
        return "is no valid UTF-8, which result files need"
    if id in (".", "..") or "/" in id or "\\" in id or "\0" in id:
        return "would lead out of the output folder"
    if id.startswith(PREFIX) or (given and (id != id.strip() or not all(map(can_be_shown, id)))):
        return "is no name for a folder"
    if OURS.match(fold(id)):
        return "is that of a file which belongs there"
    return f"is longer than {LONGEST_ID} bytes" if len(id.encode()) > LONGEST_ID else ""


def cut(stem: str, room: int) -> str:
    """So much of a name that so many bytes more have room."""
    return stem.encode()[: LONGEST_ID - room].decode(errors="ignore")


def can_be_shown(character: str) -> bool:
    """Whether a terminal shows a character as itself; spaces of all kinds are."""
    return character.isprintable() or unicodedata.category(character) == "Zs"


def name_apart(entries: Sequence[Entry], known: Mapping[str, str]) -> list[Entry]:
    """Entries with ids of their own: what they had before, what a manifest says, the file's name, and for several of
    one name that and a few digits of where each lies.

    Names that differ in case only are one to Windows and macOS. Raises UsageError for ids that were given twice, and
    for a slide that is named twice without them.
    """
    given: dict[str, Entry] = {}
    for entry in entries:
        if entry.id and (other := given.setdefault(fold(entry.id), entry)) is not entry:
            raise UsageError(
                f"the id {entry.id!r} is in line {other.line} and in line {entry.line}: give each slide its own"
            )
    free = [entry for entry in entries if not entry.id]
    if len({entry.place for entry in free}) < len(free):
        place, _ = Counter(entry.place for entry in free).most_common(1)[0]
        lines = [f"line {entry.line}" if entry.line else "the command" for entry in free if entry.place == place]
        raise UsageError(
            f"{place} is in {lines[0]} and in {lines[1]}: name it once, or give each an id in the manifest"
        )
    kept = {place: id for place, id in known.items() if fold(id) not in given}
    stems = {entry.place: kept.get(entry.place) or tell_stem(entry.address) for entry in free}
    others = [fold(id) for place, id in known.items() if place not in stems]
    taken = Counter([*given, *others, *(fold(stem) for stem in stems.values())])
    digests = {place: hashlib.sha256(place.encode()).hexdigest() for place in stems}
    apart = {place for place, stem in stems.items() if place not in kept and taken[fold(stem)] > 1}
    digits = DIGITS
    while len({digests[place][:digits] for place in apart}) < len(apart):
        digits += 2
    named = {
        place: f"{cut(stem, digits + 1)}-{digests[place][:digits]}" if place in apart else stem
        for place, stem in stems.items()
    }
    return [entry if entry.id else entry._replace(id=named[entry.place]) for entry in entries]


def refuse_one_name(entries: Sequence[Entry], known: Mapping[str, str]) -> None:
    """Raise UsageError for a file that was named by itself where another slide, here or among the `known` ids by their
    places, has its name: nobody asked for a folder that is called otherwise.
    """
    for entry in entries:
        if not entry.named or entry.place in known or fold(entry.id) == (stem := fold(tell_stem(entry.address))):
            continue
        places = [place for place, id in known.items() if fold(id) == stem]
        places += [each.address for each in entries if each is not entry and stem in (fold(each.id), fold(bare(each)))]
        raise UsageError(
            f"{entry.address} has the same name as {places[0]}, and folders are called after slides: name the folders "
            "they are in, give each an id in a --manifest, or choose another --out"
        )


def bare(entry: Entry) -> str:
    """A slide's file without its ending."""
    return Path(base(entry.address) if is_address(entry.address) else entry.address).stem


def tell_stem(address: str) -> str:
    """What a slide is called after its file. Raises UsageError for a file that no folder can be called after."""
    stem = bare(Entry("", address))
    if not stem or (fault := find_fault(stem, given=False)):
        raise UsageError(
            f"{address}: the name {fault if stem else 'is empty'}; rename it, or give it an id in a manifest"
        )
    return stem
