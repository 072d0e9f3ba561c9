"""JPEG files, decoded by a library that tells of damage."""

import struct
from pathlib import Path

import simplejpeg

from glassrt.engine.errors import SlideError
from glassrt.engine.slides.pictures.colours import GREY
from glassrt.engine.slides.pictures.exif import Written, read_exif, upright
from glassrt.engine.slides.pictures.picture import Picture, check_extent, read_content
from glassrt.engine.slides.resolution import check_aspect
from glassrt.engine.slides.slide import Pixels

JPEG = b"\xff\xd8\xff"
EXIF, JFIF, MULTIPLE = b"Exif\0\0", b"JFIF\0", b"MPF\0"
STANDALONE = {0x01, *range(0xD0, 0xD8)}  # markers without content
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9


def read_jpeg(path: Path) -> Picture:
    """A JPEG file in colour, baseline or progressive."""
    content = read_content(path)
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
