"""A matrix of numbers in a `.mat` of MATLAB 5 to 7.2, as sets of points are published in.

scipy's reader is not used: of a damaged file, an element of a type that there is not ends the whole process.
Source: MathWorks, "MAT-File Format", chapter 1.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError, first_line

MOST_BYTES = 2**22  # of a file, and of what it unpacks to
HEADER = 128
ORDERS = {b"IM": "<", b"MI": ">"}  # of bytes, by the header's last two
MATRIX, COMPRESSED = 14, 15  # types of elements
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMERIC = range(6, 16)  # classes of arrays, double to uint64
COMPLEX = 0x0800  # a flag of arrays


def read_matrix(path: Path, name: str) -> NDArray[np.float64]:
    """The two-dimensional array of real numbers that a file calls `name`, whatever type it has there.

    Raises DatasetError if there is none of that name, if it is something else, and for a file that is damaged, larger
    than 4 MiB, or of another version.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DatasetError(f"{path} has over {MOST_BYTES} bytes, as no list of points does; unpack the set again")
        return find_matrix(path.read_bytes(), name)
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing; unpack the set again") from error
    except (OSError, ValueError, zlib.error) as error:
        raise DatasetError(f"{path}: {first_line(error)}; unpack the set again") from error


def find_matrix(content: bytes, name: str) -> NDArray[np.float64]:
    """As `read_matrix`, of a file's bytes; raises ValueError or zlib.error."""
    order = ORDERS.get(content[HEADER - 2 : HEADER])
    if order is None:
        raise ValueError("this is no .mat of MATLAB 5 to 7.2")
    for kind, body in elements(content[HEADER:], order):
        if kind == COMPRESSED:
            kind, body = next(elements(unpack(body), order), (0, b""))
        if kind != MATRIX:
            continue
        parts = list(islice(elements(body, order), 4))  # flags, dimensions, name, numbers
        if len(parts) > 2 and parts[2][1] == name.encode():
            return build(parts, name, order)
    raise ValueError(f"it holds no {name!r}")


def elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """The type and the bytes of one element after another; raises ValueError where one would end behind the last."""
    place = 0
    while place < len(content):
        if place + 8 > len(content):
            raise ValueError("it ends within an element")
        kind, size = struct.unpack_from(f"{order}II", content, place)
        start = place + 8
        if kind >> 16:  # a small element: size and type share a word, and four bytes follow
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
        end = start + size
        if end > (place + 8 if start < place + 8 else len(content)):
            raise ValueError("it ends within an element")
        yield kind, content[start:end]
        place = end if kind == COMPRESSED else -(-end // 8) * 8


def unpack(body: bytes) -> bytes:
    """The element in a compressed one."""
    unpacking = zlib.decompressobj()
    content = unpacking.decompress(body, MOST_BYTES)
    if not unpacking.eof:
        raise ValueError("what it has packed is cut off or too large")
    return content


def build(parts: list[tuple[int, bytes]], name: str, order: str) -> NDArray[np.float64]:
    """The array that the elements of a matrix make up."""
    (_, flags), (_, lengths), *_ = parts
    kind, numbers = parts[3] if len(parts) > 3 else (0, b"")
    word = struct.unpack_from(f"{order}I", flags)[0] if len(flags) == 8 else 0
    if word & 0xFF not in NUMERIC or word & COMPLEX or kind not in NUMBERS:
        raise ValueError(f"{name!r} is no array of real numbers")
    shape = np.frombuffer(lengths, f"{order}i4").tolist() if len(lengths) % 4 == 0 else []
    if len(shape) != 2 or min(shape) < 0:
        raise ValueError(f"{name!r} has the dimensions {shape[:8]}, expected two")
    values = np.frombuffer(numbers, order + NUMBERS[kind])
    if len(values) != math.prod(shape):
        raise ValueError(f"{name!r} has {len(values)} numbers, but its dimensions are {shape}")
    return values.reshape(shape, order="F").astype(np.float64)
