"""Regions of system shared memory that clients made: read and written as files, never mapped.

A mapped file that its owner shrinks ends the process that touches it. Each use opens nothing anew: a region stays what
it was when it was registered, and its size is looked at every time.
"""

import os
import re
import stat
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from glassrt.engine.service.refusals import Refused
from glassrt.engine.service.tensors import Array, Place

FOLDER = Path("/dev/shm")
NAME = re.compile(r"/?(?!sem\.)[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}")
MOST_REGIONS = 256
LONGEST_NAME = 200


class Region(NamedTuple):
    """A part of a file: its first byte and how many."""

    key: str
    offset: int
    size: int
    file: Any
    lock: threading.Lock


class SharedRegions:
    """The regions that clients registered. Thread-safe. All raise Refused."""

    def __init__(self, allowed: bool) -> None:
        self._allowed = allowed
        self._regions: dict[str, Region] = {}
        self._lock = threading.Lock()

    def check(self) -> None:
        """Whether there are any here."""
        if not self._allowed:
            raise Refused(403, "shared memory is off: start glassrt serve with --shared-memory")
        if sys.platform != "linux" or not FOLDER.is_dir():
            raise Refused(501, "this system has no shared memory that can be used safely")

    def register(self, name: str, key: str, offset: int, size: int) -> None:
        """Open what a client has made."""
        self.check()
        if not NAME.fullmatch(key) or not 0 < len(name) <= LONGEST_NAME:
            raise Refused(400, f"{key[:40]!r} is no name of shared memory")
        with self._lock:
            if name in self._regions:
                raise Refused(409, f"the region {name[:60]!r} is registered; unregister it first")
            if len(self._regions) >= MOST_REGIONS:
                raise Refused(429, f"{MOST_REGIONS} regions are registered; unregister some")
            file = open_region(key)
            region = Region(key, offset, size, file, threading.Lock())
            try:
                check_end(name, region, offset + size)
            except BaseException:
                file.close()
                raise
            self._regions[name] = region

    def unregister(self, name: str | None) -> None:
        """Close one region, or all; it is no error that there is none."""
        self.check()
        with self._lock:
            gone = [self._regions.pop(each) for each in [*self._regions] if name in (None, each)]
        for region in gone:
            with region.lock:
                region.file.close()

    def close(self) -> None:
        """Close all regions."""
        if self._allowed and self._regions:
            self.unregister(None)

    def describe(self, name: str | None) -> list[dict[str, Any]]:
        """One region, or all."""
        self.check()
        with self._lock:
            if name is not None and name not in self._regions:
                raise Refused(404, f"no region {name[:60]!r} is registered")
            return [
                {"name": each, "key": region.key, "offset": region.offset, "byte_size": region.size}
                for each, region in self._regions.items()
                if name in (None, each)
            ]

    def read(self, place: Place, array: Array) -> None:
        """Fill an array."""
        region, start = self._find(place)
        into, at = array.reshape(-1).view(np.uint8).data, 0
        with region.lock:
            self._seek(place, region, start)
            while at < len(into):
                count = region.file.readinto(into[at:])
                if not count:
                    raise Refused(400, f"region {place.region[:60]!r} has become shorter")
                at += count

    def write(self, place: Place, array: Array) -> None:
        """Write an array."""
        region, start = self._find(place)
        content, at = array.reshape(-1).view(np.uint8).data, 0
        with region.lock:
            self._seek(place, region, start)
            while at < len(content):
                at += region.file.write(content[at:])

    def _find(self, place: Place) -> tuple[Region, int]:
        self.check()
        with self._lock:
            region = self._regions.get(place.region)
        if region is None:
            raise Refused(400, f"no region {place.region[:60]!r} is registered")
        if place.offset + place.size > region.size:
            raise Refused(
                400,
                f"region {place.region[:60]!r} has {region.size} bytes, not {place.size} from {place.offset} on",
            )
        return region, region.offset + place.offset

    def _seek(self, place: Place, region: Region, start: int) -> None:
        if region.file.closed:
            raise Refused(400, f"no region {place.region[:60]!r} is registered")
        check_end(place.region, region, start + place.size)
        region.file.seek(start)


def open_region(key: str) -> Any:
    """The file of a region. Raises Refused for what is none."""
    flags = os.O_RDWR
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)
    try:
        descriptor = os.open(FOLDER / key.lstrip("/"), flags)
    except OSError as error:
        raise Refused(400, f"shared memory {key[:60]!r} cannot be opened ({error.strerror})") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refused(400, f"{key[:60]!r} is no shared memory")
    return os.fdopen(descriptor, "r+b", buffering=0)


def check_end(name: str, region: Region, end: int) -> None:
    """Raise Refused unless the file of a region reaches so far now."""
    held = os.fstat(region.file.fileno()).st_size
    if end > held:
        raise Refused(400, f"region {name[:60]!r} reaches to byte {end}, {region.key[:60]!r} has {held}")
