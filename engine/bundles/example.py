"""What a bundle stores of a network's inputs and outputs, read out of an .npz archive that may claim anything."""

import io
import math
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.tensors import Signature, TensorSpec

PACKED_SLACK = 1 << 16  # bytes of an archive beside its arrays
LONGEST_HEADER = 10_000  # bytes, as NumPy itself allows
PACKING = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Known(NamedTuple):
    """What a network takes and what it exactly gives, by name."""

    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]


def read_array(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The array `name` of an archive, which has to be of that type and shape. Raises ValueError.

    No more is unpacked than it takes; nothing is ever unpickled.
    """
    size = math.prod(shape) * dtype.itemsize
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
    if (found, kind, by_columns) != (shape, dtype, False):
        raise ValueError(f"{name} is {kind} {list(found)} where {dtype} {list(shape)} is expected")
    values = content.read()
    if len(values) != size:
        raise ValueError(f"{name} holds {len(values)} bytes where {size} are expected")
    return np.frombuffer(values, dtype).reshape(shape).copy()


def read_example(content: bytes, network: Signature) -> Known:
    """What an .npz file holds of a network's inputs and outputs, one of each. Raises ValueError."""

    def read(specs: tuple[TensorSpec, ...]) -> dict[str, NDArray[Any]]:
        return {spec.name: read_array(archive, spec.name, np.dtype(spec.dtype), spec.sized(1)) for spec in specs}

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            known = Known(read(network.inputs), read(network.outputs))
    except ValueError:
        raise
    except Exception as error:  # what a damaged archive sets off in the modules that unpack it shares no other base
        raise ValueError(f"it is no archive of NumPy, or a damaged one ({type(error).__name__})") from error
    for name, values in known.outputs.items():
        if not np.isfinite(values).all():
            raise ValueError(f"its {name} are not all numbers")
    return known


def store_example(known: Known) -> bytes:
    """A network's inputs and outputs as the file that a manifest names."""
    stored = io.BytesIO()
    arrays: dict[str, Any] = {**known.inputs, **known.outputs}
    np.savez_compressed(stored, **arrays)
    return stored.getvalue()
