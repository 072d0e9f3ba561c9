"""PNG files, each chunk of which is checked."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import imagecodecs

from glassrt.engine.errors import SlideError
from glassrt.engine.slides.pictures.colours import GREY, check_opacity, over_white, to_eight_bits
from glassrt.engine.slides.pictures.exif import Written, read_exif, upright
from glassrt.engine.slides.pictures.picture import Picture, check_extent, read_content
from glassrt.engine.slides.resolution import check_aspect

PNG = b"\x89PNG\r\n\x1a\n"
PNG_GREY, RGBA = (0, 4), 6  # colour types
PNG_METHODS = [0, 0, 0], [0, 0, 1]  # compression and filter as ever, interlaced or not
CLEAR_LENGTHS = {2: (6,), 3: range(1, 257)}  # bytes of tRNS: a colour of 16 bits, an opacity for colours of a palette
PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
METRE = 1


def read_png(path: Path) -> Picture:
    """A PNG file of one picture, in any depth and with any transparency."""
    content = read_content(path)
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
