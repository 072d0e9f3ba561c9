"""Windows of a slide through GlassRT's reader and through others: millions of pixels a second."""

import importlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from numpy.typing import NDArray

from glassrt.engine.errors import GlassError, SlideError
from glassrt.engine.slides.readers import open_slide

Pixels = NDArray[np.uint8]
Read = Callable[[int, int], Pixels]  # of a window by its upper left corner
Report = dict[str, Any]

WINDOW = 512
FEWEST, MOST = 4, 256  # windows
OFF = 16  # pixels that a window off the tiles reaches into a row and a column of tiles more
REOPENED = 5  # times in a run: a small slide is read in a few milliseconds
ANY_MPP = 1.0  # level 0 is read by pixels, also of files that do not say their resolution
FARTHEST = 2.0  # grey levels between two decoders of the same tile, on average


def measure_reading(
    path: Path, rounds: int, threads: tuple[int, ...] = (1, 2), progress: Callable[[str], None] = lambda name: None
) -> Report:
    """MPix/s of every reader at windows on the slide's tiles and at random ones, the median of interleaved rounds.

    Every run opens the slide anew, so no reader finds tiles of the run before in its cache. Raises GlassError if a
    reader's pixels are others than GlassRT's.
    """
    readers = [name for name in READERS if is_there(name)]
    places = lay_windows(path)
    checked = {name: check_pixels(path, name, places["off tiles"][:8]) for name in readers}
    seconds: dict[tuple[str, str, int], list[float]] = {}
    cases = [*product(readers, places.items(), threads)]
    for number in range(rounds + 1):
        turn = f"round {number} of {rounds}" if number else "warming up"
        for name, (placing, corners), count in cases[number:] + cases[:number]:
            progress(f"{turn}: {name}, {placing}, {count} thread{'s' if count > 1 else ''}")
            taken = time_reading(path, name, corners, count)
            if number:
                seconds.setdefault((name, placing, count), []).append(taken)
    size = len(places["off tiles"]) * WINDOW**2 / 1e6
    rows = [
        {
            "name": f"{name}, {placing}, {count} thread{'s' if count > 1 else ''}",
            "unit": "s",
            "runs": runs,
            "mpix_per_s": size / float(np.median(runs)),
            "difference": checked[name],
        }
        for name, (placing, _), count in cases
        for runs in [seconds[name, placing, count]]
    ]
    return {"slide": path.name, "window": WINDOW, "windows": len(places["off tiles"]), "rows": rows}


def lay_windows(path: Path) -> dict[str, list[tuple[int, int]]]:
    """Upper left corners of windows on level 0 in any order: on the slide's tiles, and a little off them.

    Those of one kind do not overlap; off the tiles, a window touches a row and a column of tiles more.
    """
    with open_slide(path, ANY_MPP) as ours:
        width, height = ours.levels[0].size
    if openslide.OpenSlide.detect_format(path) is None:
        raise SlideError(f"{path}: an image is read whole; choose a slide to time reading")
    with openslide.OpenSlide(path) as slide:
        tile = int(slide.properties.get("openslide.level[0].tile-width", 256))
    size = -(-WINDOW // tile) * tile
    step = size + tile
    across, down = np.arange(0, width - step, step), np.arange(0, height - step, step)
    if len(across) * len(down) < FEWEST:
        raise SlideError(f"{path}: {width} x {height} pixels are too few to time reading; choose a larger slide")
    corners = np.random.default_rng(0).permutation(np.stack(np.meshgrid(across, down), axis=-1).reshape(-1, 2))[:MOST]
    return {"on tiles": corners.tolist(), "off tiles": (corners + size - WINDOW + OFF).tolist()}


def time_reading(path: Path, name: str, corners: list[tuple[int, int]], threads: int) -> float:
    """Seconds to read windows of a slide that was just opened, the mean of some times."""
    total = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(REOPENED):
            with READERS[name](path) as read:
                start = time.perf_counter()
                for _ in pool.map(lambda corner, read=read: read(*corner), corners):
                    pass
                total += time.perf_counter() - start
    return total / REOPENED


def check_pixels(path: Path, name: str, corners: list[tuple[int, int]]) -> float:
    """The mean difference of a reader's pixels from GlassRT's in grey levels. Raises GlassError if it is large."""
    with READERS["GlassRT"](path) as ours, READERS[name](path) as theirs:
        pairs = [(ours(*corner), theirs(*corner)) for corner in corners]
    wrong = any(their.shape != (WINDOW, WINDOW, 3) for _, their in pairs)
    differences = [0.0 if wrong else float(np.abs(our.astype(int) - their).mean()) for our, their in pairs]
    if wrong or max(differences) > FARTHEST:
        raise GlassError(f"{name} reads other pixels of {path} than GlassRT: its speed means nothing")
    return max(differences)


def is_there(name: str) -> bool:
    """Whether a reader's package is installed and loads."""
    try:
        importlib.import_module(PACKAGES[name])
    except (ImportError, OSError):
        return False
    return True


@contextmanager
def open_ours(path: Path) -> Iterator[Read]:
    """GlassRT's own reader."""
    with open_slide(path, ANY_MPP) as slide:
        yield lambda x, y: slide.read_level(0, (x, y), (WINDOW, WINDOW))


@contextmanager
def open_bare(path: Path) -> Iterator[Read]:
    """OpenSlide as its Python interface gives it."""
    with openslide.OpenSlide(path) as slide:
        yield lambda x, y: over_white(np.asarray(slide.read_region((x, y), 0, (WINDOW, WINDOW))))


def over_white(pixels: Pixels) -> Pixels:
    """RGB of RGBA, white where it was never scanned."""
    if pixels[..., 3].all():
        return np.ascontiguousarray(pixels[..., :3])
    return np.where(pixels[..., 3:] > 0, pixels[..., :3], np.uint8(255))


@contextmanager
def open_tiffslide(path: Path) -> Iterator[Read]:
    """tiffslide, which reads with tifffile."""
    from tiffslide import TiffSlide

    with TiffSlide(path) as slide:
        yield lambda x, y: np.asarray(slide.read_region((x, y), 0, (WINDOW, WINDOW), as_array=True), np.uint8)


@contextmanager
def open_pyvips(path: Path) -> Iterator[Read]:
    """libvips, with its own cache of tiles."""
    import pyvips

    image = pyvips.Image.new_from_file(str(path))
    yield lambda x, y: image.crop(x, y, WINDOW, WINDOW).numpy()[..., :3]


@contextmanager
def open_cucim(path: Path) -> Iterator[Read]:
    """cuCIM on the CPU."""
    from cucim import CuImage

    image = CuImage(str(path))
    yield lambda x, y: np.asarray(image.read_region((x, y), (WINDOW, WINDOW), 0))[..., :3]


READERS = {
    "GlassRT": open_ours,
    "OpenSlide": open_bare,
    "tiffslide": open_tiffslide,
    "pyvips": open_pyvips,
    "cuCIM": open_cucim,
}
PACKAGES = {name: name.lower() for name in READERS} | {"GlassRT": "openslide"}
