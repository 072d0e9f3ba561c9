"""What grows with a slide and is needed later: on disk, not in memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Spill:
    """Bytes by their keys in a file of its own, which closing deletes. One thread at a time uses it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = path.open("x+b")
        self._places: dict[Any, tuple[int, int]] = {}
        self._end = 0

    def put(self, key: Any, content: bytes) -> None:
        """Keep some bytes."""
        self._file.seek(self._end)
        self._file.write(content)
        self._places[key] = self._end, len(content)
        self._end += len(content)

    def get(self, key: Any) -> bytes:
        """The bytes that were kept. Raises KeyError."""
        place, length = self._places[key]
        self._file.seek(place)
        content: bytes = self._file.read(length)
        return content

    def __contains__(self, key: Any) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[Any]:
        return iter(self._places)

    def close(self) -> None:
        """Delete the file; harmless when done twice."""
        self._file.close()
        self._path.unlink(missing_ok=True)
