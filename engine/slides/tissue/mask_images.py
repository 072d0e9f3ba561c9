"""Masks of tissue as images, PNG and TIFF: whole numbers or colours, of which 0 is no tissue."""

import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError, first_line
from glassrt.engine.slides.pictures.colours import UPRIGHT, turn_upright
from glassrt.engine.slides.pictures.exif import read_exif
from glassrt.engine.slides.pictures.png import PIXELS, PNG, png_chunks
from glassrt.engine.slides.pictures.tiff import check_depth
from glassrt.engine.slides.tiff.pages import orientation, size_of

MOST_PIXELS = 2**28  # a slide of 1 x 1 m at 60 micrometres
MOST_COLOURS = 256
LOOKED_AT = 2**18  # pixels whose colours are counted
PALETTE = 3  # colour type of PNG
WHITE_IS_ZERO = 0  # photometric of TIFF


def read_picture(path: Path) -> NDArray[Any]:
    """Whole numbers `[H, W]` of a PNG or TIFF, upright, not 0 where any colour is; transparent pixels are 0.

    Of pictures with a palette the numbers count, not the colours.
    """
    try:
        pixels, turn = read_png(path) if path.suffix.lower() == ".png" else read_tiff(path)
    except (SlideError, OSError, MemoryError):
        raise
    except Exception as error:  # each decoder has errors of its own
        raise SlideError(f"{path}: not a readable mask image ({first_line(error)}); save it anew") from error
    refuse_photograph(path, pixels)
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = np.asarray(pixels[..., :-1].any(-1) & (pixels[..., -1] > 0), np.uint8)
    elif pixels.ndim == 3 and pixels.shape[2] in (1, 3):
        pixels = np.asarray(pixels.any(-1), np.uint8)
    return turn_upright(pixels[..., None], turn)[..., 0] if turn != UPRIGHT and pixels.ndim == 2 else pixels


def read_png(path: Path) -> tuple[NDArray[Any], int]:
    """Samples `[H, W]` or `[H, W, S]` of a PNG file and its orientation."""
    content = path.read_bytes()
    if not content.startswith(PNG):
        raise SlideError(f"{path}: not a readable mask image (no PNG file); save it anew")
    width, height, depth, colour_type = struct.unpack(">IIBB", content[16:26])
    check_length(path, width, height)
    places = list(png_chunks(path, content))
    chunks = {kind: content[start + 8 : end - 4] for kind, start, end in places if kind != b"IDAT"}
    turn = read_exif(path, chunks[b"eXIf"]).orientation if b"eXIf" in chunks else UPRIGHT
    parts = [(kind, content[start:end]) for kind, start, end in places if kind in PIXELS]
    if colour_type != PALETTE:
        return imagecodecs.png_decode(PNG + b"".join(part for _, part in parts)), turn
    # Without its palette, and said to be grey, the picture comes as its numbers, spread over 8 bits.
    header = b"IHDR" + chunks[b"IHDR"][:9] + b"\0" + chunks[b"IHDR"][10:]
    header = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    rest = b"".join(part for kind, part in parts if kind in (b"IDAT", b"IEND"))
    numbers = imagecodecs.png_decode(PNG + header + rest) // (255 // (2**depth - 1))
    check_palette(path, np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3), numbers)
    marks = np.arange(256) > 0
    opacity = np.frombuffer(chunks.get(b"tRNS", b""), np.uint8)[:256]
    marks[: len(opacity)] &= opacity > 0
    return marks[numbers], turn


def read_tiff(path: Path) -> tuple[NDArray[Any], int]:
    """Samples `[H, W]` or `[H, W, S]` of the one picture of a TIFF file and its orientation."""
    with tifffile.TiffFile(path) as file:
        pages: list[Any] = [each for page in file.pages for each in (page, *(page.pages or ()))]
        pages = [page for page in pages if not page.is_mask] or pages
        width, height = max(map(size_of, pages), key=lambda size: size[0] * size[1])
        alike = [page for page in pages if size_of(page) == (width, height)]
        page = alike[0]
        if len(alike) > 1 or page.imagedepth > 1:
            raise SlideError(
                f"{path}: holds {max(len(alike), page.imagedepth)} pictures of {width} x {height} pixels; "
                "save the mask of tissue as a file of its own"
            )
        check_depth(path, file, page)
        check_length(path, width, height)
        # tifffile writes booleans so, but means them as they are.
        if page.photometric == WHITE_IS_ZERO and (page.bitspersample, page.software) != (1, "tifffile.py"):
            raise SlideError(
                f"{path}: shows its 0 white (WhiteIsZero), but 0 is no tissue in a mask; save it with 0 as black"
            )
        pixels = page.asarray()
        if page.colormap is not None and pixels.ndim == 2:
            check_palette(path, page.colormap.T, pixels)
        return pixels, orientation(page)


def check_palette(path: Path, colours: NDArray[Any], numbers: NDArray[Any]) -> None:
    """Raise SlideError where 0 has another colour than black, and some other number that is used is black."""
    black = np.zeros(max(256, len(colours)), np.bool_)
    black[: len(colours)] = ~colours.any(1)
    if not black[0] and black[numbers].any():
        raise SlideError(
            f"{path}: its palette has a colour for 0, which is no tissue, and black for another number; "
            "save it without a palette"
        )


def refuse_photograph(path: Path, pixels: NDArray[Any]) -> None:
    """Raise SlideError for more colours than masks are painted in: next to no pixel of a photograph is 0."""
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        some = pixels.reshape(-1, pixels.shape[2])[:: max(1, pixels[..., 0].size // LOOKED_AT), :3]
        if len(np.unique(some, axis=0)) > MOST_COLOURS:
            raise SlideError(
                f"{path}: a picture of more than {MOST_COLOURS} colours, not a mask, whose other pixels are 0"
            )


def check_length(path: Path, width: int, height: int) -> None:
    """Raise SlideError for more pixels than a mask may have, or none."""
    if width * height > MOST_PIXELS:
        raise SlideError(f"{path}: {width} x {height} pixels are too many for a mask; 8 micrometres a pixel are enough")
    if not width * height:
        raise SlideError(f"{path}: not a readable mask image (of {width} x {height} pixels); save it anew")
