"""What an ONNX file is before any runtime sees its bytes: a graph that needs no other file, what it takes and gives.

Runtimes load what a graph names as external data from the folder they run in, past the sha256 that pins the bundle. So
the file's protobuf fields are walked here, without the data of its tensors; field numbers are those of `onnx.proto`.
"""

from collections.abc import Iterator
from typing import NamedTuple

from glassrt.engine.bundles.tensors import Signature, TensorSpec

MOST_FIELDS = 1_000_000  # walked, in a second; an export of a thousand layers has fifty thousand
DEEPEST = 64  # messages within one another
LONGEST_VARINT = 10
NEWEST = 1000  # version of ONNX's operations, or of its files; a runtime may count up to it
VALUES_A_BYTE = 8  # of the narrowest type, and more
HUGE = 1 << 70  # values: more than any file holds
OWN_DOMAINS = (b"", b"ai.onnx")
OTHER_FORMATS = (b"ORTM", b"TFL3")  # at byte 4: runtimes would take the file for another kind of model
TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16", 11: "float64"}

# Messages that lead to tensors and nodes, by the numbers of their fields: where a walk has to go.
HOLDERS = {
    "model": {7: "graph", 8: "operations", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 9: "operations", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
}
MODEL_GRAPH = 7
GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 5, 11, 12
NODE_DOMAIN = 7
OPERATIONS_VERSION = 2
TENSOR_DIMENSION, TENSOR_NAME, TENSOR_EXTERNAL, TENSOR_LOCATION = 1, 8, 13, 14


class Span(NamedTuple):
    """Bytes `start`...`end` of the file."""

    start: int
    end: int


class Reader:
    """The fields of protobuf messages in a file, as many as may be read."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.left = MOST_FIELDS

    def fields(self, span: Span) -> Iterator[tuple[int, int | Span]]:
        """(number, value) of each field of a message: a number, or where its bytes lie. Raises ValueError."""
        at = span.start
        while at < span.end:
            self.left -= 1
            if self.left < 0:
                raise ValueError(f"it holds more than {MOST_FIELDS} fields")
            tag, at = self._varint(at, span.end)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise ValueError("it is no ONNX file, or a damaged one")
            if wire == 0:
                value, at = self._varint(at, span.end)
                yield number, value
                continue
            if wire not in (1, 2, 5):
                raise ValueError("it is no ONNX file, or a damaged one")
            length, at = self._varint(at, span.end) if wire == 2 else (8 if wire == 1 else 4, at)
            if at + length > span.end:
                raise ValueError("it is cut short or damaged")
            yield number, Span(at, at + length)
            at += length

    def text(self, value: int | Span) -> bytes:
        """The bytes of a field that holds text."""
        if isinstance(value, int):
            raise ValueError("it is no ONNX file, or a damaged one")
        return self.content[value.start : value.end]

    def numbers(self, span: Span) -> Iterator[int]:
        """The numbers that lie packed in a field."""
        at = span.start
        while at < span.end:
            self.left -= 1
            if self.left < 0:
                raise ValueError(f"it holds more than {MOST_FIELDS} fields")
            value, at = self._varint(at, span.end)
            yield value

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """A number of variable length that begins at a byte, and where it ends."""
        value = 0
        for index in range(LONGEST_VARINT):
            if at + index >= end:
                break
            byte = self.content[at + index]
            value |= (byte & 127) << 7 * index
            if byte < 128:
                return value & (1 << 64) - 1, at + index + 1
        raise ValueError("it is cut short or damaged")


def scan_graph(content: bytes) -> Signature:
    """What the graph in an ONNX file takes and gives, once nothing in it leads to other files.

    Raises ValueError, which says why a runtime must not see it: external data, operations that are not ONNX's own,
    another format, weights, versions or messages beyond what a network has, or bytes that are no ONNX file.
    """
    if content[4:8] in OTHER_FORMATS:
        raise ValueError("it is a model of another format than ONNX")
    if content[:1] != b"\x08" or not b"\x00" < content[1:2] < b"\x80":  # every ONNX file begins with its version
        raise ValueError("it is no ONNX file, or a damaged one")
    reader = Reader(content)
    refuse_leads(reader)
    graphs = [value for number, value in reader.fields(Span(0, len(content))) if number == MODEL_GRAPH]
    if len(graphs) != 1 or isinstance(graphs[0], int):
        raise ValueError(f"it holds {len(graphs)} graphs where one is expected")
    return read_signature(reader, graphs[0])


def refuse_leads(reader: Reader) -> None:
    """Raise ValueError for a model that leads to other files or claims what it does not hold, however deep within."""
    waiting = [("model", Span(0, len(reader.content)), 0)]
    while waiting:
        kind, span, depth = waiting.pop()
        if depth > DEEPEST:
            raise ValueError(f"its messages lie more than {DEEPEST} deep in one another")
        if kind == "tensor":
            refuse_tensor(reader, span)
            continue
        if kind == "sparse":
            raise ValueError("it holds sparse weights; store them in full")
        inner = HOLDERS.get(kind, {})
        for number, value in reader.fields(span):
            if number in inner and isinstance(value, Span):
                waiting.append((inner[number], value, depth + 1))
            elif kind == "node" and number == NODE_DOMAIN and reader.text(value) not in OWN_DOMAINS:
                domain = reader.text(value)[:64].decode("ascii", "backslashreplace")
                raise ValueError(f"it needs operations of {domain!r}, which are not ONNX's own")
            elif (
                kind == "operations"
                and number == OPERATIONS_VERSION
                and not (isinstance(value, int) and 0 < value <= NEWEST)
            ):
                raise ValueError("it needs operations of a version that does not exist")


def refuse_tensor(reader: Reader, span: Span) -> None:
    """Raise ValueError for a tensor whose values are not in it."""
    count = 1
    for number, value in reader.fields(span):
        if number == TENSOR_EXTERNAL or (number == TENSOR_LOCATION and value != 0):
            raise ValueError("its weights lie in another file, which nothing pins; store them in the graph")
        if number == TENSOR_DIMENSION:
            for length in [value] if isinstance(value, int) else reader.numbers(value):
                count = min(count * length, HUGE)
    if count > VALUES_A_BYTE * (span.end - span.start):  # a negative length counts as a huge one
        raise ValueError(f"a tensor of it claims more values than its {span.end - span.start} bytes hold")


def read_signature(reader: Reader, graph: Span) -> Signature:
    """The inputs of a graph, weights aside, and its outputs."""
    inputs, outputs, weights = [], [], set()
    for number, value in reader.fields(graph):
        if not isinstance(value, Span):
            continue
        if number == GRAPH_INITIALIZER:  # old files name these among the inputs, too
            weights |= {reader.text(name) for field, name in reader.fields(value) if field == TENSOR_NAME}
        elif number == GRAPH_INPUT:
            inputs.append(read_spec(reader, value))
        elif number == GRAPH_OUTPUT:
            outputs.append(read_spec(reader, value))
    names = {name.decode("utf-8", "replace") for name in weights}
    return Signature(tuple(spec for spec in inputs if spec.name not in names), tuple(outputs))


def read_spec(reader: Reader, value: Span) -> TensorSpec:
    """What a ValueInfoProto says of a tensor."""
    info = dict(reader.fields(value))
    name = reader.text(info.get(1, Span(0, 0))).decode("utf-8", "replace")
    tensor = inner_fields(reader, inner_fields(reader, info, 2), 1)
    dtype, shape = tensor.get(1, 0), tensor.get(2)
    if not isinstance(dtype, int) or not isinstance(shape, Span):
        return TensorSpec(name, TYPES.get(dtype, "unknown") if isinstance(dtype, int) else "unknown", None)
    dimensions: list[int | None] = []
    for number, each in reader.fields(shape):
        if number == 1 and isinstance(each, Span):
            length = dict(reader.fields(each)).get(1)
            dimensions.append(length if isinstance(length, int) else None)
    return TensorSpec(name, TYPES.get(dtype, "unknown"), tuple(dimensions))


def inner_fields(reader: Reader, fields: dict[int, int | Span], number: int) -> dict[int, int | Span]:
    """The fields of a message within another; none where it is not there."""
    value = fields.get(number)
    return dict(reader.fields(value)) if isinstance(value, Span) else {}
