"""Plain images as programs write them, with the traits that readers stumble over."""

import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from made_tiffs import Pixels, stained
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 310, 200
PLAIN = stained(WIDTH, HEIGHT)
ALPHA = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
UNSEEN = np.where(ALPHA[..., None] > 0, PLAIN, 0).astype(np.uint8)  # as editors leave it
RGBA = np.dstack([UNSEEN, ALPHA])
GREY = np.ascontiguousarray(PLAIN[..., 1])
TURNED: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    # How a picture that is upright is stored for each orientation tag: TIFF 6.0, where row 0 and column 0 lie.
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, 1),  # shown turned clockwise
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels, -1),
}
STRIPS: dict[str, Any] = {"photometric": "rgb", "rowsperstrip": 32, "metadata": None}


def pillow(pixels: NDArray[Any], form: str, mode: str | None = None, **options: Any) -> bytes:
    """What Pillow writes."""
    content, image = BytesIO(), Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(content, form, **options)
    return content.getvalue()


def palette(pixels: Pixels, **options: Any) -> bytes:
    """A PNG of 256 colours."""
    content = BytesIO()
    Image.fromarray(pixels).quantize(256, dither=Image.Dither.NONE).save(content, "PNG", **options)
    return content.getvalue()


def strips(samples: NDArray[Any], **options: Any) -> bytes:
    """A TIFF of one page in strips."""
    content = BytesIO()
    with tifffile.TiffWriter(content, byteorder=options.pop("byteorder", None)) as file:
        file.write(samples, **{**STRIPS, **options})
    return content.getvalue()


def reversed_strips(samples: NDArray[Any], **options: Any) -> bytes:
    """The same with the bits of each byte in reverse order."""
    content = bytearray(strips(samples, **options))
    with tifffile.TiffFile(BytesIO(content)) as file:
        page = file.pages.first
        place = page.tags[296].offset  # the unit of the resolution, as a fill order
        content[place : place + 12] = struct.pack("<HHIHH", 266, 3, 1, 2, 0)
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            content[offset : offset + count] = imagecodecs.bitorder_decode(bytes(content[offset : offset + count]))
    return bytes(content)


def masked_bmp(rgba: Pixels) -> bytes:
    """A BMP of 32 bits whose header says which byte is transparency."""
    height, width = rgba.shape[:2]
    rows = np.ascontiguousarray(rgba[::-1][..., [2, 1, 0, 3]]).tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(rows), 0, 0, 0, 0) + masks + bytes(52)
    return b"BM" + struct.pack("<IHHI", 14 + 108 + len(rows), 0, 0, 14 + 108) + info + rows


def exif(orientation: int) -> bytes:
    """An EXIF block of one tag."""
    image = Image.Exif()
    image[274] = orientation
    return image.tobytes()


def wide(pixels: Pixels) -> bytes:
    """A PNG of 16 bits a sample."""
    return bytes(imagecodecs.png_encode(pixels.astype(np.uint16) * 257))


def write(folder: Path, name: str, content: bytes) -> Path:
    """A file of this content."""
    (folder / name).write_bytes(content)
    return folder / name


FORMS: dict[str, tuple[str, bytes]] = {
    "PNG": ("a.png", pillow(PLAIN, "PNG")),
    "PNG with 16 bits": ("a.png", wide(RGBA)),
    "PNG with a palette": ("a.png", palette(PLAIN)),
    "JPEG": ("a.jpg", pillow(PLAIN, "JPEG", quality=92)),
    "progressive JPEG": ("a.jpg", pillow(PLAIN, "JPEG", quality=92, progressive=True)),
    "JPEG with optimised tables": ("a.jpg", pillow(PLAIN, "JPEG", quality=80, optimize=True)),
    "BMP": ("a.bmp", pillow(PLAIN, "BMP")),
    "BMP with masks": ("a.bmp", masked_bmp(RGBA)),
    "strips": ("a.tif", strips(PLAIN)),
    "strips with LZW": ("a.tif", strips(PLAIN, compression="lzw")),
    "strips with LZW, differences": ("a.tif", strips(PLAIN, compression="lzw", predictor=True)),
    "strips with deflate": ("a.tif", strips(PLAIN, compression="zlib")),
    "strips with PackBits": ("a.tif", strips(PLAIN, compression="packbits")),
    "strips with zstd": ("a.tif", strips(PLAIN, compression="zstd")),
    "strips with LZMA": ("a.tif", strips(PLAIN, compression="lzma")),
    "strips with JPEG": ("a.tif", strips(PLAIN, compression="jpeg", compressionargs={"level": 92})),
}
