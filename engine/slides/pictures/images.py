"""Plain images: PNG, JPEG, BMP and TIFF read whole, as viewers show them, or refused in one line.

Damage must be told, so each format has a decoder that does. WebP and JPEG 2000 are left out for that: theirs make
up what a hole in the file took.
"""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError, first_line
from glassrt.engine.slides.pictures.bmp import read_bmp
from glassrt.engine.slides.pictures.colours import (
    UPRIGHT,
    check_opacity,
    check_stain,
    over_white,
    to_eight_bits,
    turn_upright,
)
from glassrt.engine.slides.pictures.picture import Picture, check_extent, read_content
from glassrt.engine.slides.pictures.tiff import read_tiff
from glassrt.engine.slides.resolution import check_aspect
from glassrt.engine.slides.tiff_resolution import check_unscaled, stated_by_tags

Pixels = NDArray[np.uint8]

PNG, JPEG, BMP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
GREY = "is grey, so no stain can be told; save it in colour"
PNG_GREY, RGBA = (0, 4), 6  # colour types
PNG_METHODS = [0, 0, 0], [0, 0, 1]  # compression and filter as ever, interlaced or not
CLEAR_LENGTHS = {2: (6,), 3: range(1, 257)}  # bytes of tRNS: a colour of 16 bits, an opacity for colours of a palette
PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
METRE = 1
EXIF, JFIF, MULTIPLE = b"Exif\0\0", b"JFIF\0", b"MPF\0"
STANDALONE = {0x01, *range(0xD0, 0xD8)}  # JPEG markers without content
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9


class Written(NamedTuple):
    """What stands beside the pixels of an image: orientation tag and micrometres per pixel along x and y."""

    orientation: int = UPRIGHT
    mpp: tuple[float | None, float | None] = (None, None)


def read_image(path: Path) -> Pixels:
    """RGB `[H, W, 3]` of a plain image file, upright and over white."""
    return read_picture(path).pixels


def read_picture(path: Path) -> Picture:
    """A plain image file: RGB, format, and the resolution it states. Raises SlideError where it is not read rightly."""
    try:
        with path.open("rb") as file:
            beginning = file.read(8)
        if beginning == PNG:
            picture = read_png(path, read_content(path))
        elif beginning.startswith(JPEG):
            picture = read_jpeg(path, read_content(path))
        elif beginning.startswith(TIFF):
            picture = read_tiff(path)
        elif beginning.startswith(BMP):
            picture = read_bmp(path, read_content(path))
        else:
            raise SlideError(f"{path}: not a PNG, JPEG, BMP or TIFF image; convert it or copy it again")
    except SlideError:
        raise
    except MemoryError as error:
        raise SlideError(f"{path}: larger than the memory of this machine; save it as a tiled TIFF") from error
    except OSError as error:
        raise SlideError(
            f"{path}: reading failed ({error.strerror or error}); see to the disk or the network it is on"
        ) from error
    except (AttributeError, ArithmeticError, LookupError, TypeError) as error:  # values that no reader expects
        raise SlideError(f"{path}: damaged (its header makes no sense); copy it again") from error
    except Exception as error:  # each decoder has errors of its own
        raise SlideError(f"{path}: damaged ({first_line(error)}); copy it again") from error
    check_stain(picture.pixels, path)
    return picture


def read_png(path: Path, content: bytes) -> Picture:
    """A PNG file of one picture, in any depth and with any transparency."""
    places = list(png_chunks(path, content))
    chunks = {kind: content[start + 8 : end - 4] for kind, start, end in places if kind != b"IDAT"}
    width, height, depth, colour_type, *methods = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    clear = len(chunks.get(b"tRNS", b""))
    if methods not in PNG_METHODS or (clear and clear not in CLEAR_LENGTHS.get(colour_type, ())):
        raise SlideError(f"{path}: damaged (its header makes no sense); copy it again")
    check_extent(path, width, height, (4 if clear or colour_type == RGBA else 3) * max(1, depth // 8))
    if colour_type in PNG_GREY:
        raise SlideError(f"{path}: {GREY}")
    if (frames := int.from_bytes(chunks.get(b"acTL", b"")[:4])) > 1:
        raise SlideError(f"{path}: holds {frames} pictures; save the one to score as a file of its own")
    # The other chunks hold no pixels, and libpng prints what it thinks of them.
    samples = imagecodecs.png_decode(
        PNG + b"".join(content[start:end] for kind, start, end in places if kind in PIXELS)
    )
    pixels = to_eight_bits(samples, 8 * samples.dtype.itemsize, path)
    written = read_exif(path, chunks[b"eXIf"]) if b"eXIf" in chunks else Written()
    x, y, unit = struct.unpack(">IIB", chunks.get(b"pHYs", bytes(9)))
    if x and y and unit != METRE:
        check_aspect(1 / x, 1 / y, str(path))
    elif x and y:
        written = written._replace(mpp=(1e6 / x, 1e6 / y))
    if pixels.shape[2] == 4:
        check_opacity(pixels, path)
        pixels = over_white(pixels)
    return upright(pixels, "png", written)


def png_chunks(path: Path, content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, first and end byte of each chunk; SlideError where any is damaged, or the end missing."""
    place = len(PNG)
    while place + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        end = place + 12 + length
        if end > len(content):
            break
        if zlib.crc32(memoryview(content)[place + 4 : end - 4]) != struct.unpack_from(">I", content, end - 4)[0]:
            raise SlideError(f"{path}: damaged between bytes {place} and {end}; copy it again")
        yield kind, place, end
        if kind == b"IEND":
            return
        place = end
    raise SlideError(f"{path}: damaged from byte {place} on (the file ends too early); copy it again")


def read_jpeg(path: Path, content: bytes) -> Picture:
    """A JPEG file in colour, baseline or progressive."""
    height, width, colours, _ = simplejpeg.decode_jpeg_header(content, strict=True)
    check_extent(path, width, height, 3)
    if colours == "Gray":
        raise SlideError(f"{path}: {GREY}")
    if colours in ("CMYK", "YCCK"):
        raise SlideError(f"{path}: holds inks (CMYK), whose look depends on a profile; save it as RGB")
    written = read_segments(path, content)
    pixels: Pixels = simplejpeg.decode_jpeg(content, "RGB", fastdct=False, fastupsample=False, strict=True)
    if pixels.shape != (height, width, 3):
        raise SlideError(f"{path}: damaged (of {width} x {height} pixels {pixels.shape} came); copy it again")
    return upright(pixels, "jpeg", written)


def read_segments(path: Path, content: bytes) -> Written:
    """What the segments before a JPEG file's scan say; SlideError where the file holds several pictures."""
    written = Written()
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker in (START_OF_SCAN, END_OF_IMAGE):
            break
        if marker == 0xFF or marker in STANDALONE:
            place += 1 if marker == 0xFF else 2
            continue
        length = struct.unpack_from(">H", content, place + 2)[0]
        segment = content[place + 4 : place + 2 + length]
        if marker == 0xE0 and segment.startswith(JFIF) and len(segment) >= 12:
            unit, x, y = struct.unpack_from(">BHH", segment, 7)
            if x and y and unit not in (1, 2):
                check_aspect(1 / x, 1 / y, str(path))
            elif x and y and written.mpp == (None, None):
                micrometres = 25_400 if unit == 1 else 10_000
                written = written._replace(mpp=(micrometres / x, micrometres / y))
        elif marker == 0xE1 and segment.startswith(EXIF):
            exif = read_exif(path, segment[len(EXIF) :])
            written = Written(exif.orientation, written.mpp if exif.mpp == (None, None) else exif.mpp)
        elif marker == 0xE2 and segment.startswith(MULTIPLE):
            raise SlideError(f"{path}: holds several pictures (MPF); save the one to score as a file of its own")
        place += 2 + length
    return written


def read_exif(path: Path, content: bytes) -> Written:
    """What an EXIF block says, a TIFF directory without a picture; nothing where it is broken, as for viewers.

    SlideError where it says that pixels are not square, in an unknown unit.
    """
    try:
        with tifffile.TiffFile(BytesIO(content)) as file:
            tags = file.pages.first.tags
            check_unscaled(path, tags)
            return Written(int(tags.valueof(274, UPRIGHT)), stated_by_tags(tags))
    except SlideError:
        raise
    except Exception:  # what a damaged block leads tifffile to
        return Written()


def upright(pixels: Pixels, form: str, written: Written) -> Picture:
    """A picture turned as its orientation tag says, and its resolution with it."""
    x, y = written.mpp
    if written.orientation in (5, 6, 7, 8):
        x, y = y, x
    if written.orientation != UPRIGHT:
        pixels = turn_upright(pixels, written.orientation)
    return Picture(pixels, form, x, y)
