"""Windows of any scale from one region of a slide, cut on a CUDA device."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassrt.cuda_kernels.arguments import check_array, check_count
from glassrt.cuda_kernels.compile import Array, import_cupy, load

THREADS, FOUR = 256, 4


class Frame(NamedTuple):
    """Where a region lies: its first pixel in a grid of width x height."""

    left: int
    top: int
    width: int
    height: int


def cut(region: Array, frame: Frame, places: NDArray[np.int32], window: int) -> Array:
    """Windows uint8 `[n, window, window, 3]` of a region, uint8 RGB `[H, W, 3]`.

    `places` is a host array `[n, 5]`: x and y of the window's first pixel in the grid scaled to the width and height
    that follow, and whether it is mirrored left to right after it was cut. Bilinear with half-pixel centres, in double
    precision, halves to even; beyond the scaled image it is reflected. The region must hold every pixel that the
    windows need. Raises ValueError, which names the argument, or CudaUnavailable.
    """
    check_array("region", region, (None, None, 3), ("uint8",))
    check_count("window", window, 1, 32_768)
    check_places(places, window, frame, region.shape[:2])
    cupy = import_cupy()
    windows = cupy.empty((len(places), window, window, 3), np.uint8)
    if len(places):
        threads = window * -(-window // FOUR)
        origin = (np.int32(region.shape[1]), *(np.int32(each) for each in frame))
        arguments = (region, *origin, cupy.asarray(np.ascontiguousarray(places)), np.int32(window), windows)
        load("windows")("cut_windows")((-(-threads // THREADS), len(places)), (THREADS,), arguments)
    return windows


def check_places(places: NDArray[np.int32], window: int, frame: Frame, region: tuple[int, int]) -> None:
    """Raise ValueError unless the region holds what the windows need."""
    if not isinstance(places, np.ndarray) or places.dtype != np.int32 or places.ndim != 2 or places.shape[1] != 5:
        raise ValueError("places must be a NumPy array, int32, of the shape [n, 5]")
    check_count("places", len(places), 0, 65_535)
    if not len(places):
        return
    if places[:, 2:4].min() < 1:
        raise ValueError("places: a scaled grid has no pixels")
    for axis, (start, length, held) in enumerate(
        ((frame.left, frame.width, region[1]), (frame.top, frame.height, region[0]))
    ):
        scaled = places[:, 2 + axis].astype(np.int64)
        first, end = places[:, axis].astype(np.int64), places[:, axis].astype(np.int64) + window
        # Reflection brings in what lies as far inside the image as the window reaches beyond it.
        low = np.where(first < 0, 0, np.minimum(first, 2 * (scaled - 1) - (end - 1)).clip(0))
        high = np.where(end > scaled, scaled - 1, np.maximum(end - 1, -first)).clip(0, scaled - 1)
        low_pixel = np.floor((low + 0.5) * (length / scaled) - 0.5).clip(0).min()
        high_pixel = (np.floor((high + 0.5) * (length / scaled) - 0.5) + 1).clip(0, length - 1).max()
        if low_pixel < start or high_pixel >= start + held:
            raise ValueError(
                f"places need pixels {int(low_pixel)}..{int(high_pixel)} of the grid's {'xy'[axis]} axis, "
                f"the region holds {start}..{start + held - 1}"
            )
