"""Slides in DICOM, written from nothing: one file a level, tied by the UID of their series."""

import struct
from pathlib import Path

import cv2
import numpy as np

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
JPEG = "1.2.840.10008.1.2.4.50"
TILE = 64
LONG = ("OB", "SQ", "UN")  # value representations whose length takes four bytes

Value = str | int | float | bytes


def element(group: int, number: int, kind: str, value: Value) -> bytes:
    """One data element, explicit and little-endian."""
    if isinstance(value, bytes):
        content = value
    elif kind in ("US", "UL", "FL", "FD"):
        content = struct.pack("<" + {"US": "H", "UL": "I", "FL": "f", "FD": "d"}[kind], value)
    else:
        content = str(value).encode()
        content += (b"\0" if kind == "UI" else b" ") * (len(content) % 2)
    length = struct.pack("<HI", 0, len(content)) if kind in LONG else struct.pack("<H", len(content))
    return struct.pack("<HH", group, number) + kind.encode() + length + content


def sequence(group: int, number: int, *elements: bytes) -> bytes:
    """A sequence of one item."""
    item = b"".join(elements)
    return element(group, number, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item)


def encapsulated(frames: list[bytes]) -> bytes:
    """Pixel data of JPEG frames, each a fragment."""
    fragments = [b"", *(frame + b"\0" * (len(frame) % 2) for frame in frames)]
    parts = [struct.pack("<HHI", 0xFFFE, 0xE000, len(each)) + each for each in fragments]
    head = struct.pack("<HH", 0x7FE0, 0x0010) + b"OB" + struct.pack("<HI", 0, 0xFFFFFFFF)
    return head + b"".join(parts) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def write_level(path: Path, series: str, number: int, side: int, mm: float) -> Path:
    """A level of `side` x `side` pixels of `mm` millimetres, plain grey."""
    encoded, jpeg = cv2.imencode(".jpg", np.full((TILE, TILE, 3), 240, np.uint8))
    assert encoded
    count = (side // TILE) ** 2
    instance = f"{series}.{number}"
    meta = b"".join(
        [
            element(0x0002, 0x0001, "OB", b"\0\1"),
            element(0x0002, 0x0002, "UI", WHOLE_SLIDE),
            element(0x0002, 0x0003, "UI", instance),
            element(0x0002, 0x0010, "UI", JPEG),
            element(0x0002, 0x0012, "UI", "1.2.3"),
        ]
    )
    image = "ORIGINAL\\PRIMARY\\VOLUME\\NONE" if number == 1 else "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED"
    body = b"".join(
        [
            element(0x0008, 0x0008, "CS", image),
            element(0x0008, 0x0016, "UI", WHOLE_SLIDE),
            element(0x0008, 0x0018, "UI", instance),
            element(0x0008, 0x0060, "CS", "SM"),
            element(0x0020, 0x000D, "UI", "1.2.3.4"),
            element(0x0020, 0x000E, "UI", series),
            element(0x0020, 0x0013, "IS", number),
            element(0x0020, 0x9311, "CS", "TILED_FULL"),
            element(0x0028, 0x0002, "US", 3),
            element(0x0028, 0x0004, "CS", "YBR_FULL_422"),
            element(0x0028, 0x0006, "US", 0),
            element(0x0028, 0x0008, "IS", count),
            element(0x0028, 0x0010, "US", TILE),
            element(0x0028, 0x0011, "US", TILE),
            element(0x0028, 0x0100, "US", 8),
            element(0x0028, 0x0101, "US", 8),
            element(0x0028, 0x0102, "US", 7),
            element(0x0028, 0x0103, "US", 0),
            element(0x0048, 0x0006, "UL", side),
            element(0x0048, 0x0007, "UL", side),
            element(0x0048, 0x0303, "UL", 1),
            sequence(
                0x5200,
                0x9229,
                sequence(
                    0x0028, 0x9110, element(0x0018, 0x0050, "DS", 0.001), element(0x0028, 0x0030, "DS", f"{mm}\\{mm}")
                ),
            ),
        ]
    )
    head = bytes(128) + b"DICM" + element(0x0002, 0x0000, "UL", len(meta))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + meta + body + encapsulated([jpeg.tobytes()] * count))
    return path


def write_series(folder: Path, series: str) -> list[Path]:
    """The two levels of a slide."""
    return [
        write_level(folder / f"{series}-{number}.dcm", series, number, side, mm)
        for number, side, mm in ((1, 256, 0.0005), (2, 128, 0.001))
    ]
