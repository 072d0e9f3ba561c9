"""Tensors on the wire of the Open Inference Protocol, version 2, with its extensions for binary data and shared memory.

A request's body is JSON, and behind it the bytes of the tensors that the JSON gives sizes of, in order, little-endian
and row-major; a header says where the JSON ends.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.tensors import TensorSpec
from glassrt.engine.service.bodies import LARGEST_JSON, WHOLE
from glassrt.engine.service.refusals import Refused

LENGTH = "Inference-Header-Content-Length"
TYPES = {"uint8": "UINT8", "float32": "FP32"}
MOST_WINDOWS = 1024  # of a request
MOST_TENSORS = 64

Array = NDArray[Any]


class Place(NamedTuple):
    """Bytes of a region of shared memory."""

    region: str
    offset: int
    size: int


class Regions(NamedTuple):
    """What reads an array out of shared memory, and what writes one there. Both raise Refused."""

    read: Callable[[Place, Array], None]
    write: Callable[[Place, Array], None]


class Input(msgspec.Struct):
    """A tensor of a request."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = None


class Wanted(msgspec.Struct):
    """A tensor that a request asks for."""

    name: str
    parameters: dict[str, Any] = {}


class Asked(msgspec.Struct):
    """A request."""

    inputs: list[Input]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[Wanted] | None = None


def split_body(content: bytes, length: str | None) -> tuple[bytes, bytes]:
    """The JSON of a body and the bytes behind it. Raises Refused."""
    if length is None:
        head, rest = content, b""
    else:
        if not WHOLE.fullmatch(length) or not 0 <= int(length) <= len(content):
            raise Refused(400, f"{LENGTH} is {length[:20]!r}, expected a length up to the body's {len(content)}")
        head, rest = content[: int(length)], content[int(length) :]
    if len(head) > LARGEST_JSON:
        raise Refused(413, f"the JSON has more than {LARGEST_JSON} bytes: send tensors as binary data")
    return head, rest


def read_request(head: bytes, rest: bytes, specs: Sequence[TensorSpec], raw: bool) -> Asked:
    """A request. `raw` is one whose body is the only tensor. Raises Refused, and as msgspec does."""
    if not raw:
        return msgspec.json.decode(head, type=Asked)
    one = size_of(specs[0], (1, *specs[0].sized(1)[1:]))
    if len(specs) > 1 or not rest or len(rest) % one:
        raise Refused(400, f"{len(rest)} raw bytes, expected one tensor of N times {one}")
    shape = [len(rest) // one, *specs[0].sized(1)[1:]]
    given = Input(specs[0].name, shape, TYPES[specs[0].dtype], {"binary_data_size": len(rest)})
    return Asked([given], parameters={"binary_data_output": True})


def gather(asked: Asked, rest: bytes, specs: Sequence[TensorSpec], regions: Regions) -> dict[str, Array]:
    """The arrays of a request, `[N, ...]` each of one N. Raises Refused."""
    by_name, found, at = {spec.name: spec for spec in specs}, dict[str, Array](), 0
    for given in asked.inputs:
        spec = by_name.get(given.name)
        if spec is None or given.name in found:
            raise Refused(400, f"unexpected input {given.name[:60]!r}: expected {', '.join(by_name)}")
        shape = check_shape(given, spec)
        place, size = find_place(given.parameters), read_size(given.parameters)
        if (place is not None) + (size is not None) + (given.data is not None) != 1:
            raise Refused(400, f"{given.name}: expected either data, binary_data_size or shared_memory_region")
        if place is not None:
            check_bytes(given.name, place.size, size_of(spec, shape), shape)
            found[given.name] = np.empty(shape, spec.dtype)
            regions.read(place, found[given.name])
        elif size is not None:
            check_bytes(given.name, size, size_of(spec, shape), shape)
            if at + size > len(rest):
                raise Refused(400, f"{given.name}: {size} binary bytes, of which {len(rest) - at} came")
            found[given.name] = np.frombuffer(rest, spec.dtype, math.prod(shape), at).reshape(shape)
            at += size
        else:
            found[given.name] = read_data(given, spec, shape)
    if at < len(rest):
        raise Refused(400, f"{len(rest) - at} binary bytes more than the inputs say")
    if missing := [name for name in by_name if name not in found]:
        raise Refused(400, f"input {missing[0]} is missing")
    if len({array.shape[0] for array in found.values()}) > 1:
        raise Refused(400, "the inputs have different numbers of windows")
    for name, array in found.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Refused(400, f"{name} holds numbers that are not finite")
    return found


def check_shape(given: Input, spec: TensorSpec) -> tuple[int, ...]:
    """The shape of an input. Raises Refused unless it is the network's, and its type too."""
    if given.datatype != TYPES[spec.dtype]:
        raise Refused(400, f"{spec.name}: datatype {given.datatype[:20]!r}, expected {TYPES[spec.dtype]}")
    meant = spec.sized(1)
    if len(given.shape) != len(meant) or tuple(given.shape[1:]) != meant[1:]:
        told = ", ".join(["N", *map(str, meant[1:])])
        raise Refused(400, f"{spec.name}: shape {str(given.shape[:8])[:80]}, expected [{told}]")
    if not 1 <= given.shape[0] <= MOST_WINDOWS:
        raise Refused(400, f"{spec.name}: {str(given.shape[0])[:20]} windows, expected 1 to {MOST_WINDOWS}")
    return tuple(given.shape)


def read_data(given: Input, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """The numbers of an input in JSON, nested or not. Raises Refused."""
    try:
        array = np.asarray(given.data)
    except (ValueError, OverflowError, RecursionError):
        array = np.empty(0, object)
    if not isinstance(given.data, list) or array.dtype.kind not in ("iu" if spec.dtype == "uint8" else "iuf"):
        raise Refused(400, f"{given.name}: data is not a list of {TYPES[spec.dtype]}, all rows of one length")
    if array.size != math.prod(shape):
        raise Refused(400, f"{given.name}: {array.size} numbers, its shape has {math.prod(shape)}")
    if spec.dtype == "uint8" and (array.min() < 0 or array.max() > 255):
        raise Refused(400, f"{given.name}: numbers beyond 0 to 255")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array.astype(spec.dtype).reshape(shape))


def check_bytes(name: str, size: int, wanted: int, shape: tuple[int, ...]) -> None:
    """Raise Refused unless a tensor of a shape has so many bytes."""
    if size != wanted:
        raise Refused(400, f"{name}: {size} bytes, its shape {list(shape)} has {wanted}")


def find_place(parameters: Mapping[str, Any]) -> Place | None:
    """Where a tensor lies in shared memory, if it does. Raises Refused."""
    if "shared_memory_region" not in parameters:
        return None
    region, offset, size = (
        parameters.get(name, default)
        for name, default in (
            ("shared_memory_region", ""), ("shared_memory_offset", 0), ("shared_memory_byte_size", None)
        )
    )  # fmt: skip
    if not isinstance(region, str) or not is_size(offset) or not is_size(size):
        raise Refused(400, "shared_memory_region, shared_memory_offset and shared_memory_byte_size are not as expected")
    return Place(region, offset, size)


def read_size(parameters: Mapping[str, Any]) -> int | None:
    """How many binary bytes a tensor has, if it comes so. Raises Refused."""
    size = parameters.get("binary_data_size")
    if size is not None and not is_size(size):
        raise Refused(400, f"binary_data_size is {str(size)[:20]!r}, expected a number of bytes")
    return size


def is_size(value: Any) -> bool:
    """Whether a value is a number of bytes."""
    return type(value) is int and 0 <= value < 1 << 48


def size_of(spec: TensorSpec, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of a shape."""
    return math.prod(shape) * np.dtype(spec.dtype).itemsize


def check_wanted(asked: Asked, names: Sequence[str]) -> list[Wanted]:
    """What a request asks for, by default all. Raises Refused."""
    wanted = asked.outputs if asked.outputs else [Wanted(name) for name in names]
    seen: set[str] = set()
    for each in wanted:
        if each.name not in names or each.name in seen:
            raise Refused(400, f"unexpected output {each.name[:60]!r}: expected {', '.join(names)}")
        if each.parameters.get("classification"):
            raise Refused(400, f"output {each.name}: classification is not offered")
        find_place(each.parameters)
        seen.add(each.name)
    return wanted


def write_response(
    told: Mapping[str, Any], wanted: Sequence[Wanted], outputs: Mapping[str, Array], asked: Asked, regions: Regions
) -> tuple[int | None, list[bytes]]:
    """The parts of an answer, the JSON first, and the JSON's length where binary data follows. `told` is what the JSON
    says beside the outputs. Raises Refused.
    """
    binary: list[bytes] = []
    described: list[dict[str, Any]] = []
    for each in wanted:
        array = np.ascontiguousarray(outputs[each.name])
        entry: dict[str, Any] = {"name": each.name, "datatype": TYPES[str(array.dtype)], "shape": list(array.shape)}
        place = find_place(each.parameters)
        if place is not None:
            if place.size < array.nbytes:
                raise Refused(400, f"output {each.name}: {place.size} bytes of shared memory, it has {array.nbytes}")
            regions.write(place, array)
            entry["parameters"] = {
                "shared_memory_region": place.region, "shared_memory_offset": place.offset,
                "shared_memory_byte_size": array.nbytes,
            }  # fmt: skip
        elif each.parameters.get("binary_data", asked.parameters.get("binary_data_output", False)) is True:
            binary.append(array.tobytes())
            entry["parameters"] = {"binary_data_size": array.nbytes}
        else:
            entry["data"] = array.ravel().tolist()
        described.append(entry)
    head = msgspec.json.encode({**told, "outputs": described})
    return (len(head) if binary else None), [head, *binary]
