"""Masks of tissue as images: PNG and TIFF."""

import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError

MOST_PIXELS = 2**28  # a slide of 1 x 1 m at 60 micrometres
MOST_COLOURS = 256
LOOKED_AT = 2**18  # pixels whose colours are counted


def read_picture(path: Path) -> NDArray[Any]:
    """Whole numbers `[H, W]` of a PNG or TIFF, not 0 where any colour is; transparent pixels are 0."""
    try:
        if path.suffix.lower() == ".png":
            content = path.read_bytes()
            check_length(path, *struct.unpack(">II", content[16:24]))
            pixels = imagecodecs.png_decode(content)
        else:
            with tifffile.TiffFile(path) as file:
                page = file.pages[0]
                check_length(path, page.imagewidth, page.imagelength)  # type: ignore[union-attr]
                pixels = page.asarray()
    except (imagecodecs.PngError, tifffile.TiffFileError, struct.error, ValueError, IndexError, KeyError) as error:
        raise SlideError(f"{path}: not a readable mask image ({str(error).splitlines()[0]})") from error
    pixels = np.asarray(pixels)
    refuse_photograph(path, pixels)
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        return np.asarray(pixels[..., :-1].any(-1) & (pixels[..., -1] > 0), np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] in (1, 3):
        return np.asarray(pixels.any(-1), np.uint8)
    return pixels


def refuse_photograph(path: Path, pixels: NDArray[Any]) -> None:
    """Raise SlideError for more colours than masks are painted in: next to no pixel of a photograph is 0."""
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        some = pixels.reshape(-1, pixels.shape[2])[:: max(1, pixels[..., 0].size // LOOKED_AT), :3]
        if len(np.unique(some, axis=0)) > MOST_COLOURS:
            raise SlideError(
                f"{path}: a picture of more than {MOST_COLOURS} colours, not a mask, whose other pixels are 0"
            )


def check_length(path: Path, width: int, height: int) -> None:
    """Raise SlideError for more pixels than a mask may have."""
    if width * height > MOST_PIXELS:
        raise SlideError(f"{path}: {width} x {height} pixels are too many for a mask; 8 micrometres a pixel are enough")
