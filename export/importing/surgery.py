"""A foreign graph between what a bundle's takes and gives: bytes of RGB windows, any number at once, in; float32 logits
out. Its own nodes stay as they are, but for a sigmoid at its very end.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from glassrt.engine.bundles.tensors import Signature, TensorSpec
from glassrt.engine.errors import BundleError, first_line
from glassrt.export.importing.foreign import Foreign, inner_graphs, steps_back
from glassrt.export.importing.settings import Settings
from glassrt.export.importing.statement import Meaning

BATCH_AXIS = "batch"  # by which ONNX Runtime's backend fixes it
FIRST_STORED_APART = 4  # version of ONNX's files since which weights need not be named among the inputs
LEAST = 1e-7  # probability whose logarithm is taken
MOST = 1 - 5e-5  # probability whose log-odds are taken: nearer to 1, float32 does not tell them to a thousandth
TYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}


class Chain:
    """Nodes in a row, the next of which takes what the last gave, and the constants that they hold; all have names
    that are not `used`, which are added to these.
    """

    def __init__(self, value: str, used: set[str]) -> None:
        self.value, self.nodes, self.constants = value, list[NodeProto](), list[TensorProto]()
        self._used = used

    def add(self, operation: str, *others: NDArray[Any] | str, **attributes: Any) -> None:
        """Append a node that takes the last value, then constants or other values."""
        names = [each if isinstance(each, str) else self._hold(each) for each in others]
        result = self.name("made")
        self.nodes.append(helper.make_node(operation, [self.value, *names], [result], result, **attributes))
        self.value = result

    def end_as(self, name: str) -> None:
        """Call the last value so, if need be by a node of its own."""
        if not self.nodes:
            self.add("Identity")
        self.nodes[-1].output[0] = self.value = name

    def name(self, wanted: str) -> str:
        """A name like the one that is wanted, which nothing has."""
        while wanted in self._used:
            wanted += "_"
        self._used.add(wanted)
        return wanted

    def _hold(self, values: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(values, self.name("constant")))
        return self.constants[-1].name


def build_graph(
    foreign: Foreign, settings: Settings, meaning: Meaning, order: Sequence[int], signature: Signature
) -> bytes:
    """The foreign network as the graph of a bundle with that `signature`, its classes in `order`.

    Raises BundleError for a graph that is not sound, or too large for one file.
    """
    model = ModelProto()
    model.CopyFrom(foreign.model)
    (taken,), (given,) = signature.inputs, signature.outputs
    graph = model.graph
    names: dict[str, str] = {}
    for own in (taken.name, given.name):
        names |= free_name(graph, own)
    image, output = (names.get(name, name) for name in (foreign.image, foreign.output))
    used = {*all_names(graph), taken.name, given.name}
    before, after = prepare_bytes(foreign, settings, Chain(taken.name, used), image), Chain(output, used)
    if meaning.activation == "sigmoid" and drop_sigmoid(graph, output):
        meaning = meaning._replace(activation="logits")
    read_output(after, foreign, settings, meaning, order)
    after.end_as(given.name)
    nodes = [*before.nodes, *live_nodes(graph, output), *after.nodes]
    graph.ClearField("value_info")  # they still say the old number of windows
    replace_field(graph, "node", nodes)
    replace_field(graph, "input", [describe(taken)])
    replace_field(graph, "output", [describe(given)])
    graph.initializer.extend([*before.constants, *after.constants])
    drop_unused(graph)
    drop_notes(model)
    model.ir_version = max(model.ir_version, FIRST_STORED_APART)
    try:
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())
    except Exception as error:  # what onnx and protobuf raise shares no other base
        raise BundleError(f"{foreign.path} makes no sound graph: {first_line(error)}") from error


def prepare_bytes(foreign: Foreign, settings: Settings, chain: Chain, image: str) -> Chain:
    """Append the nodes that make of windows, uint8 `[N, H, W, 3]`, what the network's `image` is."""
    planes = foreign.layout == "nchw"
    if foreign.dtype != "uint8":
        chain.add("Cast", to=TYPES[foreign.dtype])  # first: TensorRT does nothing else with bytes
    if planes:
        chain.add("Transpose", perm=[0, 3, 1, 2])
    if settings.bgr:
        chain.add("Gather", np.array([2, 1, 0], np.int64), axis=1 if planes else 3)
    if foreign.dtype != "uint8":
        shape = (1, 3, 1, 1) if planes else (1, 1, 1, 3)
        factors = 1 / (np.float64(settings.scale or 1) * settings.channel_stds)
        offsets = -settings.channel_means.astype(np.float64) / settings.channel_stds
        if (factors != 1).any():
            chain.add("Mul", factors.astype(np.float32).reshape(shape))
        if offsets.any():
            chain.add("Add", offsets.astype(np.float32).reshape(shape))
    chain.end_as(image)
    return chain


def read_output(chain: Chain, foreign: Foreign, settings: Settings, meaning: Meaning, order: Sequence[int]) -> None:
    """Append the nodes that make of the network's output what a bundle gives: a segmentation's logits `[N, C, h, w]`,
    tiles' `[N, C]`, or features `[N, d]`.
    """
    if meaning.channels_at == 3:
        chain.add("Transpose", perm=[0, 3, 1, 2])
    if not meaning.stride:
        chain.add("Flatten", axis=1)
    if settings.kind == "encoder":
        return
    if meaning.activation != "logits":
        chain.add("Max", np.array(LEAST, np.float32))
    if meaning.activation == "softmax":
        chain.add("Log")
    if meaning.activation == "sigmoid":
        chain.add("Min", np.array(MOST, np.float32))
        probability = chain.value
        chain.add("Neg")
        chain.add("Add", np.array(1, np.float32))
        beside = chain.value
        chain.value = probability
        chain.add("Div", beside)
        chain.add("Log")
    if meaning.channels == 1:
        shares = np.array([order.index(1) == at for at in range(2)], np.float32)
        chain.add("Mul", shares.reshape((1, 2, 1, 1) if meaning.stride else (1, 2)))
    elif list(order) != sorted(order):
        chain.add("Gather", np.array(order, np.int64), axis=1)


def drop_sigmoid(graph: GraphProto, output: str) -> bool:
    """Whether the output was the sigmoid of something, which it now is itself: its log-odds, whole.

    Between the two may lie what only moves values. A sigmoid that others take too stays, and one of half precision,
    which is not what its log-odds in float32 would give.
    """
    takers = [name for node in graph.node for name in taken_by(node)]
    for node in steps_back(graph, output):
        value = node.output[0]
        if node.op_type == "Cast" or takers.count(value) > (value != output):
            return False
        if node.op_type == "Sigmoid":
            node.op_type = "Identity"
            return True
    return False


def live_nodes(graph: GraphProto, output: str) -> list[NodeProto]:
    """The nodes that an output needs, in their order; a graph may have had several outputs."""
    needed, kept = {output}, list[NodeProto]()
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(taken_by(node))
    return kept[::-1]


def taken_by(node: NodeProto) -> list[str]:
    """The names of the values that a node takes, in the graphs within it too."""
    inner = [name for graph in inner_graphs(node) for each in graph.node for name in taken_by(each)]
    ends = [each.name for graph in inner_graphs(node) for each in graph.output]
    return [*node.input, *inner, *ends]


def drop_unused(graph: GraphProto) -> None:
    """Remove the weights that no node takes."""
    taken = {name for node in graph.node for name in taken_by(node)} | {each.name for each in graph.output}
    for at in reversed(range(len(graph.initializer))):
        if graph.initializer[at].name not in taken:
            del graph.initializer[at]


def free_name(graph: GraphProto, name: str) -> dict[str, str]:
    """Call what has a name otherwise, wherever it is used; returns the old name with the new one, if any had it."""
    used = all_names(graph)
    if name not in used:
        return {}
    other = name
    while other in used:
        other += "_"
    rename(graph, name, other)
    return {name: other}


def rename(graph: GraphProto, old: str, new: str) -> None:
    """Call a value otherwise, in the graphs within too."""
    for node in graph.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                if name == old:
                    names[at] = new
        for inner in inner_graphs(node):
            rename(inner, old, new)
    for each in (*graph.initializer, *graph.input, *graph.output):
        if each.name == old:
            each.name = new


def all_names(graph: GraphProto) -> set[str]:
    """The names of all values and nodes, of the graphs within too."""
    names = {each.name for each in (*graph.initializer, *graph.input, *graph.output, *graph.node)}
    for node in graph.node:
        names.update(node.input, node.output, *(all_names(inner) for inner in inner_graphs(node)))
    return names


def describe(spec: TensorSpec) -> onnx.ValueInfoProto:
    """An input or output, whose first length is free."""
    _, *lengths = spec.shape or ()
    return helper.make_tensor_value_info(spec.name, TYPES[spec.dtype], [BATCH_AXIS, *lengths])


def replace_field(message: Any, field: str, values: Sequence[Any]) -> None:
    """Put other messages in place of those that a field holds."""
    copies = [type(each).FromString(each.SerializeToString()) for each in values]
    message.ClearField(field)
    getattr(message, field).extend(copies)


def drop_notes(model: ModelProto) -> None:
    """Remove what exporters noted for those who debug them, such as source lines with the paths of a machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    model.ClearField("training_info")
