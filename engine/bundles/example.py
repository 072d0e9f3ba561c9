"""The window and logits that a bundle stores, read out of an .npz archive that may claim anything."""

import io
import math
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST_HEADER = 10_000  # bytes, as NumPy itself allows
PACKING = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_array(archive: zipfile.ZipFile, name: str, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    """The array `name` of an archive, which has to be of that type and shape. Raises ValueError.

    No more is unpacked than it takes; nothing is ever unpickled.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type not in PACKING or member.flag_bits & 1:
        raise ValueError(f"{name} is packed in a way that NumPy does not write")
    with archive.open(member) as packed:
        content = io.BytesIO(packed.read(size + LONGEST_HEADER + 16))
    version = np.lib.format.read_magic(content)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} is stored in version {version[0]}.{version[1]} of NumPy's format")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    found, by_columns, kind = read_header(content, max_header_size=LONGEST_HEADER)
    if (found, kind, by_columns) != (shape, np.dtype(dtype), False):
        raise ValueError(f"{name} is {kind} {list(found)} where {np.dtype(dtype)} {list(shape)} is expected")
    values = content.read()
    if len(values) != size:
        raise ValueError(f"{name} holds {len(values)} bytes where {size} are expected")
    return np.frombuffer(values, dtype).reshape(shape).copy()


def read_example(
    content: bytes, window: int, logits_shape: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The window `[1, H, W, 3]` and its logits `[1, C, h, w]` in an .npz file. Raises ValueError."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            image = read_array(archive, "image", np.uint8, (1, window, window, 3))
            logits = read_array(archive, "logits", np.float32, (1, *logits_shape))
    except ValueError:
        raise
    except Exception as error:  # what a damaged archive sets off in the modules that unpack it shares no other base
        raise ValueError(f"it is no archive of NumPy, or a damaged one ({type(error).__name__})") from error
    if not np.isfinite(logits).all():
        raise ValueError("its logits are not all numbers")
    return image, logits
