"""Slides for `bench batch`: pieces of a real one, whole and broken in ten ways."""

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from glassrt.engine.slides.readers import open_slide

TILE = 256
SMALL = 768  # pixels of a small slide's side: scored in half a second
HUGE = 1 << 20  # pixels that a broken slide says its side has


class Pieces:
    """Writes slides that are cut from one."""

    def __init__(self, slide: Path) -> None:
        """Raises SlideError."""
        with open_slide(slide) as opened:
            self._pixels = opened.read_level(0, (0, 0), opened.levels[0].size)
            self._mpp = opened.mpp

    def write(self, path: Path, side: int, seed: int) -> Path:
        """A slide of `side` pixels at a place that the seed chooses; the piece is repeated where it is too small."""
        random = np.random.default_rng(seed)
        height, width = self._pixels.shape[:2]
        top, left = (int(random.integers(0, max(1, size - side))) for size in (height, width))
        rows, columns = np.arange(top, top + side) % height, np.arange(left, left + side) % width
        write_tiff(path, self._pixels[rows][:, columns], self._mpp)
        return path

    def write_many(self, folder: Path, count: int, side: int = SMALL) -> list[Path]:
        """So many slides of their own."""
        folder.mkdir(parents=True, exist_ok=True)
        return [self.write(folder / f"slide-{number:04}.tif", side, number) for number in range(count)]


def write_tiff(path: Path, pixels: NDArray[np.uint8], mpp: float) -> None:
    """A tiled JPEG TIFF, as scanners write them."""
    tifffile.imwrite(
        path, pixels, tile=(TILE, TILE), photometric="rgb", compression="jpeg", resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER",
    )  # fmt: skip


def truncate(path: Path) -> None:
    """Half a file."""
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    """No bytes."""
    os.truncate(path, 0)


def misname(path: Path) -> None:
    """A file that begins as no picture does."""
    with path.open("r+b") as file:
        file.write(b"GLASS")


def scramble(path: Path) -> None:
    """Random bytes within all tiles."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with path.open("r+b") as file:
        for offset, count in places:
            file.seek(offset)
            file.write(np.random.default_rng(offset).bytes(count))


def make_folder(path: Path) -> None:
    """A folder of a slide's name."""
    path.unlink()
    path.mkdir()


def forbid(path: Path) -> None:
    """A file that may not be read."""
    path.chmod(0)


def make_pipe(path: Path) -> None:
    """A pipe that nobody writes to: whoever opens it waits."""
    path.unlink()
    os.mkfifo(path)


def write_text(path: Path) -> None:
    """A text."""
    path.write_text("Dear colleague, the slides will follow.\n" * 100)


def claim_size(path: Path) -> None:
    """A PNG, whole by its sums, that says it has as many pixels as no memory holds."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", HUGE, HUGE, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def leave(path: Path) -> None:
    """Nothing yet: it is deleted while the batch runs."""


# What is done to a slide, and what has to be told of it.
BROKEN: Sequence[tuple[str, Callable[[Path], None], str]] = (
    ("truncated", truncate, "cannot be read|damaged|ends|truncated|OpenSlide cannot|beyond the end"),
    ("empty", empty, "not a|is empty|no slide"),
    ("wrong-magic", misname, "not a"),
    ("random-bytes", scramble, "cannot be read|damaged|JPEG"),
    ("folder", make_folder, "not a file"),
    ("forbidden", forbid, "no permission to read it"),
    ("pipe", make_pipe, "not a file"),
    ("text", write_text, "not a"),
    ("huge", claim_size, "pixels"),
    ("deleted", leave, "does not exist"),
)
