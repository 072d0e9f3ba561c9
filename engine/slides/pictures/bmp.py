"""BMP images: header, masks and palette read by hand, as general decoders fill up what a cut file lacks."""

import struct
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from glassrt.engine.errors import SlideError
from glassrt.engine.slides.pictures.colours import check_opacity, over_white
from glassrt.engine.slides.pictures.picture import Picture, check_extent, read_content
from glassrt.engine.slides.slide import Pixels

BMP = b"BM"
FILE_HEADER, INFO_HEADER, MASKED_HEADER = 14, 40, 56
NO_COMPRESSION, MASKS, MASKS_WITH_ALPHA = 0, 3, 6
BYTES = {0xFF << shift: shift // 8 for shift in (0, 8, 16, 24)}  # the byte of a pixel that a mask selects


class Header(NamedTuple):
    """What a BMP file says of its pixels."""

    start: int
    info: int
    width: int
    height: int
    upside_down: bool
    bits: int
    compression: int
    mpp: tuple[float | None, float | None]

    @property
    def stride(self) -> int:
        """Bytes of a row, which are whole groups of four."""
        return -(-self.width * self.bits // 32) * 4


def read_bmp(path: Path) -> Picture:
    """A BMP file with 24 or 32 bits a pixel, or with a palette."""
    content = read_content(path)
    header = read_header(path, content)
    check_extent(path, header.width, header.height, max(3, header.bits // 8))
    whole_rows = max(0, len(content) - header.start) // header.stride
    if whole_rows < header.height:
        y = header.height - 1 - whole_rows if header.upside_down else whole_rows
        raise SlideError(f"{path}: damaged at x 0, y {y} (the file ends there); copy it again")
    stored = np.frombuffer(content, np.uint8, header.height * header.stride, header.start)
    rows = stored.reshape(header.height, header.stride)
    if header.upside_down:
        rows = rows[::-1]
    if header.bits == 24:
        bgr = np.ascontiguousarray(rows[:, : header.width * 3]).reshape(header.height, header.width, 3)
        pixels: Pixels = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)  # type: ignore[assignment]
    elif header.bits == 32:
        pixels = read_four_bytes(path, content, header, rows.reshape(header.height, header.width, 4))
    else:
        pixels = read_palette(path, content, header, rows)
    return Picture(pixels, "bmp", *header.mpp)


def read_header(path: Path, content: bytes) -> Header:
    """The header; SlideError for the rare forms, whose pixels would have to be unpacked."""
    if len(content) < FILE_HEADER + INFO_HEADER:
        raise SlideError(f"{path}: damaged (the file ends within its header); copy it again")
    start, info = struct.unpack_from("<II", content, 10)
    width, height, _, bits, compression, _, x, y = struct.unpack_from("<iiHHIIii", content, 18)
    masked = bits == 32 and compression in (MASKS, MASKS_WITH_ALPHA)
    plain = bits in (1, 4, 8, 24, 32) and compression == NO_COMPRESSION
    if info < INFO_HEADER or not (plain or masked):
        raise SlideError(
            f"{path}: a BMP form that is not read ({bits} bits, compression {compression}); save it as PNG"
        )
    mpp = (1e6 / x, 1e6 / y) if x > 0 and y > 0 else (None, None)
    return Header(start, info, width, abs(height), height > 0, bits, compression, mpp)


def read_four_bytes(path: Path, content: bytes, header: Header, rows: Pixels) -> Pixels:
    """RGB of pixels of four bytes: their order is fixed or given by masks, the fourth may be transparency."""
    order, alpha = [2, 1, 0], None
    if header.compression != NO_COMPRESSION:
        *masks, last = struct.unpack_from("<4I", content, FILE_HEADER + INFO_HEADER)
        if not set(masks) <= set(BYTES):
            raise SlideError(f"{path}: a BMP form that is not read (colours of other than 8 bits); save it as PNG")
        order = [BYTES[mask] for mask in masks]
        if header.info >= MASKED_HEADER or header.compression == MASKS_WITH_ALPHA:
            alpha = BYTES.get(last)
    if alpha is not None:
        rgba = np.ascontiguousarray(rows[..., [*order, alpha]])
        check_opacity(rgba, path)
        return over_white(rgba)
    if (
        header.compression == NO_COMPRESSION
        and len(set(np.unique(rows[..., 3])) | {0}) > 1
        and rows[..., 3].min() < 255
    ):
        raise SlideError(
            f"{path}: the fourth byte of its pixels may be transparency, which viewers take in different ways; "
            "save it as PNG"
        )
    return np.ascontiguousarray(rows[..., order])


def read_palette(path: Path, content: bytes, header: Header, rows: Pixels) -> Pixels:
    """RGB of pixels that are numbers of a palette's colours."""
    used = struct.unpack_from("<I", content, 46)[0] or 2**header.bits
    first = FILE_HEADER + header.info
    count = min(used, 2**header.bits, max(0, header.start - first) // 4)
    palette = np.frombuffer(content, np.uint8, count * 4, first).reshape(count, 4)[:, 2::-1]
    if header.bits == 8:
        numbers: Pixels = rows[:, : header.width]
    else:
        bits = np.unpackbits(rows, axis=1).reshape(len(rows), -1, header.bits)[:, : header.width]
        numbers = np.packbits(bits, axis=2)[..., 0] >> np.uint8(8 - header.bits)
    if numbers.max() >= count:
        raise SlideError(f"{path}: damaged (colour {numbers.max()} of a palette of {count}); copy it again")
    return np.ascontiguousarray(palette[numbers])
