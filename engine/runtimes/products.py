"""Known products through a runtime in eight bits: whether this machine adds them up or cuts them off.

Processors without VNNI multiply unsigned by signed bytes in pairs whose sum must fit sixteen bits. The graph below is
written in ONNX's own bytes (https://onnx.ai/onnx/repo-docs/IR.html), as the engine goes without the package `onnx`.
"""

import struct
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.parts import RunPrecision
from glassrt.engine.errors import GlassError
from glassrt.engine.runtimes.isa import cpu_isa
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.runtimes.table import RUNTIMES, load_file

CHANNELS, SIDE = 16, 8  # of the image, whose every value is 255
WEIGHTS = tuple(range(-127, 128))  # a filter each, of this one value throughout
ZERO = 128
FLOAT, UINT8, INT8, INT64 = 1, 2, 3, 7  # ONNX's names of types
CHECKED = {7: 64, 8: 127}  # the largest weight of so many bits


def find_fault(bundle: Bundle, name: str, precision: RunPrecision) -> str:
    """Why a runtime's int8 would be wrong on this processor, in one line; nothing where it is right."""
    if precision != "int8" or RUNTIMES[name].target != "cpu":
        return ""
    graphs = [bundle.find_graph("int8", "cpu", role) for role in bundle.manifest.networks]
    bits, right = max(graph.weight_bits or 8 for graph in graphs), find_exact_bits(name)
    if bits <= right:
        return ""
    here = f"{name} on this processor ({isa_of(name)})"
    if right == 0:
        return f"int8 is not offered: {here} does not multiply bytes rightly; choose --precision fp32"
    return (
        f"int8 is not offered: {here} cuts off sums of {bits}-bit weights, which {bundle.path} has; choose --precision "
        "fp32, or export the bundle again, which gives it 7-bit ones"
    )


@cache
def find_exact_bits(name: str) -> int:
    """The bits of weights that a runtime for CPUs computes rightly with on this processor: 8, 7 or 0."""
    return exact_bits(lambda graph: load_file(name).open_graph(graph, 1, 1, "int8", name, False))


def isa_of(name: str) -> str:
    """The instructions that a runtime for CPUs computes with here."""
    return cpu_isa(limited=name == "openvino")


def exact_bits(open_graph: Callable[[bytes], Backend]) -> int:
    """The bits that weights may have for a runtime to compute right here: 8, 7, or 0 where it is wrong with either.

    `open_graph` opens a graph in int8 for one image at a time. A filter of equal weights over pixels of 255 gives its
    weight, once divided by 255 and the number of its weights.
    """
    try:
        backend = open_graph(known_products())
    except GlassError:
        return 0
    try:
        outputs = backend.infer({"image": np.full((1, CHANNELS, SIDE, SIDE), 255, np.uint8)})
    finally:
        backend.close()
    wanted = np.array(WEIGHTS, np.float32)
    off = np.max([np.abs(middle(output) - wanted) for output in outputs.values()], axis=0)  # NaN stays
    return max((bits for bits, most in CHECKED.items() if (off[np.abs(wanted) <= most] < 0.5).all()), default=0)


def middle(output: NDArray[np.float32]) -> NDArray[np.float32]:
    """What each filter gives away from the border."""
    return output[0, :, SIDE // 2, SIDE // 2]


def known_products() -> bytes:
    """A quantised graph of the kinds of convolution that networks are made of: `image` uint8 in, an output for each."""
    dense = [(name, (len(WEIGHTS), CHANNELS, side, side)) for name, side in (("pointwise", 1), ("spatial", 3))]
    nodes = [
        node("Cast", ["image"], "pixels", to=FLOAT),
        node("QuantizeLinear", ["pixels", "one", "none"], "bytes"),
        node("DequantizeLinear", ["bytes", "one", "none"], "values"),
    ]
    held = [tensor("one", np.float32(1)), tensor("none", np.uint8(0)), tensor("zero", np.uint8(ZERO))]
    for name, shape in dense:
        filters = np.broadcast_to(np.array(WEIGHTS, np.int8)[:, None, None, None], shape)
        held += [
            tensor(f"{name}.filters", filters),
            tensor(f"{name}.ones", np.ones(len(WEIGHTS), np.float32)),
            tensor(f"{name}.nones", np.zeros(len(WEIGHTS), np.int8)),
            tensor(f"{name}.scale", np.float32(255 * np.prod(shape[1:]))),
        ]
        parts = [f"{name}.filters", f"{name}.ones", f"{name}.nones"]
        pad = shape[-1] // 2
        nodes += [
            node("DequantizeLinear", parts, f"{name}.weights", axis=0),
            node("Conv", ["values", f"{name}.weights"], f"{name}.sums", pads=[pad] * 4, kernel_shape=list(shape[2:])),
            node("QuantizeLinear", [f"{name}.sums", f"{name}.scale", "zero"], f"{name}.bytes"),
            node("DequantizeLinear", [f"{name}.bytes", "one", "zero"], name),
        ]
    inputs = [value("image", UINT8, (1, CHANNELS, SIDE, SIDE))]
    outputs = [value(name, FLOAT, (1, len(WEIGHTS), SIDE, SIDE)) for name, _ in dense]
    graph = fields((1, nodes), (2, [b"products"]), (5, held), (11, inputs), (12, outputs))
    return fields((1, [8]), (7, [graph]), (8, [fields((2, [17]))]))


def node(kind: str, inputs: Iterable[str], output: str, **attributes: int | list[int]) -> bytes:
    """A NodeProto with whole numbers as attributes."""
    made = []
    for name, given in attributes.items():
        numbers = (8, given, 7) if isinstance(given, list) else (3, [given], 2)
        made.append(fields((1, [name.encode()]), numbers[:2], (20, [numbers[2]])))
    names = [each.encode() for each in inputs]
    return fields((1, names), (2, [output.encode()]), (3, [output.encode()]), (4, [kind.encode()]), (5, made))


def tensor(name: str, array: NDArray[np.generic] | np.generic) -> bytes:
    """A TensorProto of a constant."""
    kind = {"float32": FLOAT, "uint8": UINT8, "int8": INT8}[str(array.dtype)]
    return fields((1, list(array.shape)), (2, [kind]), (8, [name.encode()]), (9, [array.tobytes()]))


def value(name: str, kind: int, shape: Iterable[int]) -> bytes:
    """A ValueInfoProto."""
    sides = fields((1, [fields((1, [length])) for length in shape]))
    return fields((1, [name.encode()]), (2, [fields((1, [fields((1, [kind]), (2, [sides]))]))]))


def fields(*numbered: tuple[int, Iterable[int | bytes]]) -> bytes:
    """A message of protobuf: whole numbers and bytes under their fields' numbers."""
    written = b""
    for number, values in numbered:
        for each in values:
            if isinstance(each, bytes):
                written += varint(number << 3 | 2) + varint(len(each)) + each
            else:
                written += varint(number << 3) + varint(each)
    return written


def varint(number: int) -> bytes:
    """A whole number in protobuf's seven bits at a time."""
    groups = b""
    while number > 127:
        groups += struct.pack("B", number & 127 | 128)
        number >>= 7
    return groups + struct.pack("B", number)
