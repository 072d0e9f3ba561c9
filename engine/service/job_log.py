"""What was asked of a server, on disk before it is promised: a line of JSON for each job and for its dismissal."""

import os
import threading
from pathlib import Path

import msgspec

from glassrt.engine.files import output_errors


class Line(msgspec.Struct, omit_defaults=True):
    """A job that was asked for, or that was `dismissed`."""

    id: str
    slide: str = ""
    bundle: str = ""
    mpp: float | None = None
    dismissed: bool = False


class JobLog:
    """The file at `path`. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def read(self) -> list[Line]:
        """All lines; one that a killed process left half-written says nothing. Raises OutputError."""
        if not self._path.is_file():
            return []
        with output_errors(self._path):
            content = self._path.read_bytes()
        found = []
        for line in content.splitlines():
            try:
                found.append(msgspec.json.decode(line, type=Line))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
        return found

    def add(self, line: Line) -> None:
        """Write a line to disk. Raises OutputError."""
        with self._lock, output_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(b"\n" + msgspec.json.encode(line))
                file.flush()
                os.fsync(file.fileno())
