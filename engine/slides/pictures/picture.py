"""A plain image that was read whole, and the bounds that keep one from taking all memory."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError

MOST_BYTES = 3 * 2**30  # of the samples of an image, which is decoded at once, and of its file


class Picture(NamedTuple):
    """RGB `[H, W, 3]`, the format it came in, micrometres per pixel along x and y where the file says so.

    `doubt` is why that may not be true.
    """

    pixels: NDArray[np.uint8]
    form: str
    mpp_x: float | None
    mpp_y: float | None
    doubt: str = ""


def check_extent(path: Path, width: int, height: int, bytes_a_pixel: int) -> None:
    """Raise SlideError unless an image can be held in memory, before anything is decoded."""
    if width < 1 or height < 1:
        raise SlideError(f"{path}: damaged (it declares {width} x {height} pixels); copy it again")
    if width * height * bytes_a_pixel > MOST_BYTES:
        raise SlideError(
            f"{path}: {width} x {height} pixels are more than an image that is read at once may have; "
            "save it as a tiled, pyramidal TIFF"
        )


def read_content(path: Path) -> bytes:
    """All bytes of an image file; SlideError where no image of a size that is read has so many."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise SlideError(f"{path}: {size:,} bytes are more than an image has; save it as a tiled, pyramidal TIFF")
    return path.read_bytes()
