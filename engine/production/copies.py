"""Copies of slides that lie elsewhere, or on slow disks, in a folder that stays below a size.

A copy appears whole or not at all, is locked while it is used, and stays until room is needed: the one that was used
longest ago goes first. Several processes may share the folder.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from glassrt.engine.errors import SlideError
from glassrt.engine.files import output_errors, prepare_folder
from glassrt.engine.production.places import Part, find_parts
from glassrt.engine.staging import lock, names_file, own_name, remove, take_place
from glassrt.engine.system import CLOSE_ON_EXEC, NO_FOLLOW, flush, lock_file

DIGITS = 16
LOCK, SIZE = ".lock", ".size"
ROOM = ".glassrt-room.lock"  # is held while room is made
WAIT_S = 0.5
FLAGS = os.O_RDWR | os.O_CREAT | NO_FOLLOW | CLOSE_ON_EXEC


class Copies:
    """The copies in `folder`, of `most` bytes together."""

    def __init__(self, folder: Path, most: int) -> None:
        """Raises OutputError where the folder cannot be written."""
        prepare_folder(folder)
        self._folder, self._most = folder, most

    @contextmanager
    def hold(self, address: str, alive: Callable[[], None] = lambda: None) -> Iterator[Path]:
        """Yield the path of a whole copy, which stays while the context lasts; makes it where there is none.

        Waits for room that other slides in use take. `alive` is called while it waits and while bytes come. Raises
        SlideError where the slide cannot be copied, or is larger than the folder may be; OutputError where the disk is
        full.
        """
        parts = find_parts(address)
        size = sum(part.size for part in parts)
        if size > self._most:
            raise SlideError(
                f"{address} has {size / 1e9:.3g} GB, the copies {self._most / 1e9:.3g}: give more --cache-size"
            )
        told = "\n".join(f"{part.path} {part.size} {part.version}" for part in parts)
        copy = self._folder / hashlib.sha256(f"{address}\n{told}".encode()).hexdigest()[:DIGITS]
        with self._lock(copy, parts, size, alive):
            yield copy / parts[0].name

    @contextmanager
    def _lock(self, copy: Path, parts: Sequence[Part], size: int, alive: Callable[[], None]) -> Iterator[None]:
        """Hold a copy's lock with others, once it is whole: who finds none makes it with the lock for oneself."""
        while True:
            with contextlib.ExitStack() as stack:
                with output_errors(self._folder):
                    descriptor = os.open(name(copy, LOCK), FLAGS, 0o600)
                    stack.callback(os.close, descriptor)
                wait_for(descriptor, True, alive)
                if not names_file(name(copy, LOCK), descriptor):
                    continue  # it was dropped just now
                if is_whole(copy, parts):
                    with output_errors(copy):
                        os.utime(copy)
                    yield
                    return
                wait_for(descriptor, False, alive)
                if names_file(name(copy, LOCK), descriptor) and not is_whole(copy, parts):
                    with output_errors(self._folder):
                        self._make(copy, parts, size, alive)

    def _make(self, copy: Path, parts: Sequence[Part], size: int, alive: Callable[[], None]) -> None:
        """Copy a slide. Raises SlideError and OSError."""
        remove(copy)
        self._make_room(copy, size, alive)
        with own_name(self._folder) as beside:
            try:
                beside.mkdir()
                with watched(beside, alive):
                    for part in parts:
                        part.copy(beside)
                        flush(beside / part.name)
                take_place(beside, copy)
            finally:
                remove(beside)

    def _make_room(self, copy: Path, size: int, alive: Callable[[], None]) -> None:
        """Take `size` bytes for a copy, whose lock is held, from those that are not in use."""
        while True:
            with lock(self._folder / ROOM):
                sizes = {each.stem: read_size(each) for each in self._folder.glob(f"*{SIZE}")}
                sizes.pop(copy.name, None)
                for older in sorted(sizes, key=self._used):
                    if sum(sizes.values()) + size <= self._most:
                        break
                    if self._drop(self._folder / older):
                        del sizes[older]
                if sum(sizes.values()) + size <= self._most:
                    name(copy, SIZE).write_text(str(size))
                    return
            alive()
            time.sleep(WAIT_S)

    def _used(self, copy: str) -> float:
        try:
            return (self._folder / copy).stat().st_mtime
        except OSError:  # of one that was never whole
            return 0.0

    def _drop(self, copy: Path) -> bool:
        """Delete a copy that nobody uses; whether it is gone."""
        with contextlib.ExitStack() as stack:
            try:
                descriptor = os.open(name(copy, LOCK), FLAGS, 0o600)
                stack.callback(os.close, descriptor)
                lock_file(descriptor)
            except OSError:
                return False
            remove(copy)
            name(copy, SIZE).unlink(missing_ok=True)
            name(copy, LOCK).unlink(missing_ok=True)
            return True


def wait_for(descriptor: int, shared: bool, alive: Callable[[], None]) -> None:
    """Take a lock once it is free; a file system without locks keeps nobody out."""
    while True:
        try:
            lock_file(descriptor, shared)
        except BlockingIOError:
            alive()
            time.sleep(WAIT_S)
        except OSError:
            return
        else:
            return


@contextmanager
def watched(folder: Path, alive: Callable[[], None]) -> Iterator[None]:
    """Call `alive` now and then while what lies in `folder` grows."""
    ended = threading.Event()

    def watch() -> None:
        before = 0
        while not ended.wait(WAIT_S):
            with contextlib.suppress(OSError):
                now = sum(each.stat().st_size for each in folder.rglob("*"))
                if now != before:
                    before = now
                    alive()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def is_whole(copy: Path, parts: Sequence[Part]) -> bool:
    """Whether a copy has all its files, of their sizes."""
    try:
        return all((copy / part.name).stat().st_size == part.size for part in parts)
    except OSError:
        return False


def read_size(path: Path) -> int:
    """What a copy takes; nothing where that was not written whole."""
    text = path.read_text()
    return int(text) if text.isdecimal() else 0


def name(copy: Path, suffix: str) -> Path:
    """A file that goes with a copy."""
    return copy.with_name(copy.name + suffix)
