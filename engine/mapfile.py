"""The finished map on disk while a slide is being scored: planes of uint8 in a plain file.

Plain reads and writes, no memory mapping: the pages of a mapping count as resident memory, and memory must
not grow with the slide.
"""

from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

NOT_ANALYSED = 255
"""Class value of pixels outside every computed window."""

Bytes = NDArray[np.uint8]


class MapFile:
    """A map `[planes, height, width]` in a file of its own, which closing deletes.

    Plane 0 holds class numbers, or NOT_ANALYSED; plane k the probability of class k as round(255 p), 0 where
    not analysed. Class 0 is the background; its probability is what the others leave.
    """

    def __init__(self, path: Path, planes: int, height: int, width: int) -> None:
        self.path, self.planes, self.height, self.width = path, planes, height, width
        self._file = open(path, "x+b", buffering=0)  # noqa: SIM115 - close() owns it

    def write_rows(self, top: int, rows: Bytes) -> None:
        """Write `[planes, n, width]` as rows `top`...`top + n` of every plane."""
        for plane, content in enumerate(rows):
            self._file.seek((plane * self.height + top) * self.width)
            self._write(memoryview(np.ascontiguousarray(content)).cast("B"))

    def _write(self, content: memoryview) -> None:
        while content:  # an unbuffered write may take only a part
            content = content[self._file.write(content) :]

    def read(self, plane: int, top: int, bottom: int, left: int = 0, right: int | None = None) -> Bytes:
        """`[bottom - top, right - left]` of one plane; owned by the caller."""
        right = self.width if right is None else right
        if (left, right) != (0, self.width):
            return np.concatenate([self.read(plane, row, row + 1)[:, left:right] for row in range(top, bottom)])
        self._file.seek((plane * self.height + top) * self.width)
        rows = np.fromfile(self._file, np.uint8, (bottom - top) * self.width)
        return rows.reshape(bottom - top, self.width)

    def close(self) -> None:
        """Close and delete the file; harmless when done twice."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> "MapFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
