"""Matrices in `.mat` files, against scipy's reader, and files that must not be believed."""

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from glassrt.engine.errors import DatasetError
from glassrt.training.datasets.matlab import read_matrix

TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
SHAPES = ((0, 2), (0, 0), (1, 2), (2, 1), (3, 2), (7, 5))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_matrices_of_all_types_are_read(tmp_path: Path, kind: str, packed: bool) -> None:
    path = tmp_path / "a.mat"
    for shape in SHAPES:
        values = (np.random.default_rng(0).random(shape) * 100).astype(kind)
        others = {"before": "text", "detections": [[1.0]], "list": {"detection": [[2.0]]}}
        scipy.io.savemat(path, {**others, "detection": values, "after": [[3.0]]}, do_compression=packed)
        read = read_matrix(path, "detection")
        assert read.dtype == np.float64
        assert read.shape == shape
        assert np.array_equal(read, values)


def element(kind: int, content: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(*numbers: float, order: str = "<", shape: tuple[int, ...] = (1, 2), **changed: bytes) -> bytes:
    """A row of numbers called `a`, as doubles, its parts changed at will."""
    parts = {
        "flags": element(6, struct.pack(f"{order}II", 6, 0), order),
        "lengths": element(5, struct.pack(f"{order}{len(shape)}i", *shape), order),
        "name": element(1, b"a", order),
        "numbers": element(9, struct.pack(f"{order}{len(numbers)}d", *numbers), order),
    }
    return element(14, b"".join((parts | changed).values()), order)


def save(folder: Path, content: bytes, order: str = "<") -> Path:
    path = folder / "a.mat"
    path.write_bytes(
        b"MATLAB 5.0".ljust(124) + struct.pack(f"{order}H", 0x100) + {"<": b"IM", ">": b"MI"}[order] + content
    )
    return path


def test_either_order_of_bytes_is_read(tmp_path: Path) -> None:
    for order in "<>":
        small = struct.pack(f"{order}I", 2 << 16 | 2) + bytes([5, 6, 0, 0])  # in one word with its size, as uint8
        assert read_matrix(save(tmp_path, matrix(1.5, -2, order=order), order), "a").tolist() == [[1.5, -2]]
        assert read_matrix(save(tmp_path, matrix(order=order, numbers=small), order), "a").tolist() == [[5, 6]]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it holds no 'a'"),
        (matrix(1, 2)[:-8], "it ends within an element"),
        (matrix(1, 2)[:12], "it ends within an element"),
        (matrix(1, 2)[:3], "it ends within an element"),
        (matrix(1, 2, shape=(1, 3)), r"'a' has 2 numbers, but its dimensions are \[1, 3\]"),
        (matrix(1, 2, shape=(2**31 - 1, 2**31 - 1)), "'a' has 2 numbers, but"),
        (matrix(1, 2, shape=(-1, -2)), r"'a' has the dimensions \[-1, -2\]"),
        (matrix(1, 2, shape=(2,)), r"'a' has the dimensions \[2\], expected two"),
        (matrix(1, 2, lengths=element(5, b"123")), r"'a' has the dimensions \[\]"),
        (matrix(1, 2, flags=element(6, b"")), "'a' is no array of real numbers"),
        (matrix(1, 2, flags=element(6, bytes([3, 0, 0, 0] * 2))), "'a' is no array of real numbers"),
        (matrix(1, 2, flags=element(6, bytes([6, 8, 0, 0] * 2))), "'a' is no array of real numbers"),
        (matrix(1, 2, numbers=element(0xF8, bytes(16))), "'a' is no array of real numbers"),  # which scipy dies of
        (matrix(1, 2, numbers=b""), "'a' is no array of real numbers"),
        (matrix(1, 2, numbers=struct.pack("<II", 16 << 16 | 9, 0) + bytes(16)), "it ends within an element"),
        (matrix(1, 2, numbers=element(9, bytes(15))), "buffer size must be a multiple"),
        (matrix(1, 2, name=element(1, b"ab")), "it holds no 'a'"),
        (element(15, zlib.compress(matrix(1, 2))[:-2]), "what it has packed is cut off or too large"),
        (element(15, zlib.compress(bytes(2**23))), "what it has packed is cut off or too large"),
        (element(15, b"no archive"), "Error -3 while decompressing"),
        (element(15, zlib.compress(b"")), "it holds no 'a'"),
        (bytes(2**22), "has over 4194304 bytes"),
    ],
)
def test_a_damaged_file_is_refused_in_a_line(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(DatasetError, match=rf"a\.mat.*{says}.*unpack the set again") as told:
        read_matrix(save(tmp_path, content), "a")
    assert "\n" not in str(told.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    with pytest.raises(DatasetError, match=r"a\.mat is missing"):
        read_matrix(path, "a")
    scipy.io.savemat(path, {"a": [[1.0, 2.0]]}, format="4")
    for content in (path.read_bytes(), b"", b"MATLAB 5.0", b"\x89HDF\r\n\x1a\n".ljust(600)):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"a\.mat: this is no \.mat of MATLAB 5 to 7\.2"):
            read_matrix(path, "a")


@pytest.mark.parametrize("packed", [False, True])
def test_no_damage_gets_through_as_another_error(tmp_path: Path, packed: bool) -> None:
    random, path = np.random.default_rng(0), tmp_path / "a.mat"
    scipy.io.savemat(path, {"a": np.ones((6, 2))}, do_compression=packed)
    whole = path.read_bytes()
    refused = 0
    for _ in range(1000):
        content = bytearray(whole)
        for place in random.integers(124, min(len(whole), 240), random.integers(1, 4)):
            content[place] = random.integers(256)
        path.write_bytes(content)
        try:
            assert read_matrix(path, "a").ndim == 2
        except DatasetError:
            refused += 1
    assert refused > 300


def test_nuclei_are_those_that_scipy_reads() -> None:
    if "GLASSRT_DATA" not in os.environ:
        pytest.skip("GLASSRT_DATA is not set: it names the folder that holds crchisto/ with CRCHistoPhenotypes")
    paths = list(Path(os.environ["GLASSRT_DATA"]).glob("crchisto/img*/*.mat"))
    assert len(paths) >= 400
    for path in paths:
        content: dict[str, Any] = scipy.io.loadmat(path)
        assert np.array_equal(read_matrix(path, "detection"), content["detection"])
