"""A tile as a scanner hands it in: raw pixels, or encoded as it will stand in the file."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import imagecodecs
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError, first_line
from glassrt.engine.geometry.boxes import Box, Size
from glassrt.engine.slides.pictures.colours import over_white
from glassrt.engine.slides.slide import Pixels
from glassrt.engine.slides.tiff.jpeg import decode_jpeg

Order = Literal["rgb", "bgr", "rgba", "bgra"]
LARGEST_TILE = 8192  # pixels of a side
JPEG, JP2, J2K = b"\xff\xd8\xff", b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"
END = b"\xff\xd9"  # of a JPEG 2000 codestream


class Tile(NamedTuple):
    """Pixels of a level whose first is (x, y): raw `[h, w, 3 or 4]` in an `order`, or JPEG or JPEG 2000 as it stands in
    a file.
    """

    level: int
    x: int
    y: int
    content: NDArray[np.uint8] | bytes
    order: Order = "rgb"

    def box(self, size: Size) -> Box:
        """Where all of it would lie, of `size` pixels."""
        return Box(self.x, self.y, self.x + size[0], self.y + size[1])


class Tables(NamedTuple):
    """What the tiles of a TIFF page leave to the page: the tables of JPEG, and whether its colours are YCbCr or RGB."""

    jpegtables: bytes
    photometric: int


class Handed(NamedTuple):
    """Where a tile's pixels lie within its level, and what gives them `[h, w, 3]`, once they are needed.

    That raises SlideError where the tile is damaged.
    """

    box: Box
    pixels: Callable[[], Pixels]


def open_tile(tile: Tile, level: Size, tables: Tables, name: str) -> Handed:
    """A tile of a level of this size in the slide `name`. Raises SlideError where it is none, or lies beside it."""
    where = f"{name}: the tile at x {tile.x}, y {tile.y}"
    if not isinstance(tile.content, np.ndarray):
        try:
            encoded = bytes(memoryview(tile.content))
        except TypeError as error:
            raise SlideError(f"{where} is {type(tile.content).__name__}, expected an array or bytes") from error
        size = read_size(encoded, where)
        box = place_tile(tile, size, level, where)
        decode = decode_once(encoded, size, tables, where)
        return Handed(box, lambda: inside(decode(), tile.box(size), box))
    if tile.order not in get_args(Order):
        raise SlideError(f"{where} has the order {tile.order!r}: expected one of {', '.join(get_args(Order))}")
    content, channels = tile.content, len(tile.order)
    if content.dtype != np.uint8 or content.ndim != 3 or content.shape[2] != channels or not content.size:
        raise SlideError(f"{where} is {content.dtype} {list(content.shape)}, expected uint8 [H, W, {channels}]")
    size = (content.shape[1], content.shape[0])
    box = place_tile(tile, size, level, where)
    pixels = as_rgb(inside(content, tile.box(size), box), tile.order)
    return Handed(box, lambda: pixels)


def place_tile(tile: Tile, size: Size, level: Size, where: str) -> Box:
    """The part of a level that a tile of this size has pixels for. Raises SlideError where there is none."""
    if max(size) > LARGEST_TILE:
        raise SlideError(f"{where} has {size[0]} x {size[1]} pixels: {LARGEST_TILE} a side are the most")
    box = meet(tile.box(size), Box(0, 0, *level))
    if box.left >= box.right or box.top >= box.bottom:
        raise SlideError(f"{where} lies beside level {tile.level} of {level[0]} x {level[1]} pixels")
    return box


def as_rgb(pixels: Pixels, order: Order) -> Pixels:
    """Raw pixels as RGB; what is transparent is white."""
    if order.startswith("bgr"):
        pixels = pixels[..., [2, 1, 0, *range(3, len(order))]]
    return over_white(np.ascontiguousarray(pixels)) if len(order) == 4 else pixels


def decode_once(content: bytes, size: Size, tables: Tables, where: str) -> Callable[[], Pixels]:
    """What decodes an encoded tile of this size when it is first called, with the decoder that files go through."""
    decoded: list[Pixels] = []

    def decode() -> Pixels:
        if not decoded:
            try:
                pixels = decode_jpeg(content, tables) if content.startswith(JPEG) else decode_jp2(content)
                if pixels.shape[1::-1] != size:
                    raise ValueError(
                        f"{pixels.shape[1]} x {pixels.shape[0]} pixels, and {size[0]} x {size[1]} by its header"
                    )
                decoded.append(pixels)
            except Exception as error:  # each codec has errors of its own
                raise SlideError(f"{where} is damaged ({first_line(error)}); push it again") from error
        return decoded[0]

    return decode


def read_size(content: bytes, where: str) -> Size:
    """Width and height of an encoded tile. Raises SlideError where it is none."""
    try:
        if content.startswith(JPEG):
            height, width, *_ = simplejpeg.decode_jpeg_header(content, strict=False)
            return width, height
    except Exception as error:  # of what a damaged header leads the decoder to
        raise SlideError(f"{where} is damaged ({first_line(error)}); push it again") from error
    stream = find_codestream(content)
    if len(stream) >= 24:
        # The marker, then SIZ with its length and capabilities; right, bottom, left and top of the image.
        right, bottom, left, top = (int.from_bytes(stream[at : at + 4]) for at in (8, 12, 16, 20))
        if not stream.endswith(END):  # which decoders do not miss
            raise SlideError(f"{where} is damaged (it has no end); push it again")
        if right > left and bottom > top:
            return right - left, bottom - top
    raise SlideError(f"{where} is no JPEG and no JPEG 2000")


def find_codestream(content: bytes) -> bytes:
    """The codestream of a JPEG 2000 file, box by box, or the whole where it is one; nothing where there is none."""
    if content.startswith(J2K):
        return content
    at = 0 if content.startswith(JP2) else len(content)
    while at + 8 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        header = 16 if length == 1 else 8
        length = int.from_bytes(content[at + 8 : at + 16]) if length == 1 else length or len(content) - at
        if kind == b"jp2c":
            stream = content[at + header : at + length]
            return stream if stream.startswith(J2K) else b""
        at += max(header, length)
    return b""


def check_numbers(tile: Tile, name: str) -> None:
    """Raise SlideError unless a tile's place is told in whole numbers."""
    for each in (tile.level, tile.x, tile.y):
        if not isinstance(each, int | np.integer) or isinstance(each, bool):
            raise SlideError(f"{name}: a tile at {tile.level!r}, {tile.x!r}, {tile.y!r}: expected whole numbers")


def decode_jp2(content: bytes) -> Pixels:
    """RGB of a JPEG 2000 tile. Raises ValueError for other samples."""
    pixels: Any = imagecodecs.jpeg2k_decode(content)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"samples are {pixels.dtype} {list(pixels.shape)}, not 8-bit RGB")
    return pixels  # type: ignore[no-any-return]


def meet(one: Box, other: Box) -> Box:
    """What two boxes have in common; nothing where its sides are not in order."""
    left, top = max(one.left, other.left), max(one.top, other.top)
    return Box(left, top, min(one.right, other.right), min(one.bottom, other.bottom))


def inside(array: NDArray[Any], place: Box, box: Box) -> NDArray[Any]:
    """The part `box` of an array that lies at `place`."""
    return array[box.top - place.top : box.bottom - place.top, box.left - place.left : box.right - place.left]
