"""An ONNX file that others wrote: its graph with all that it needs, and which of its tensors are the image and the
output.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import onnx
import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, inliner

from glassrt.engine.bundles.parts import LARGEST_SIDE, SMALLEST_SIDE
from glassrt.engine.bundles.scan import TYPES
from glassrt.engine.errors import BundleError, UsageError, first_line
from glassrt.export.importing.settings import Layout, Settings

OLDEST = 8  # opset since which operations broadcast as ours need it
CHANNELS_AT: dict[Layout, int] = {"nchw": 1, "nhwc": 3}
RGB = 3
TAKEN = ("float32", "uint8")
MOVING = {"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}  # values as they are, elsewhere
FLOATS = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE}

Shape = tuple[int | None, ...]


class Foreign(NamedTuple):
    """A network as it was given: its graph with all its weights, the tensors that matter, and how its image lies.

    `dtype` is float32 or uint8, `window` pixels along its image's sides, `batch` how many it takes at once, None for
    any number.
    """

    path: Path
    model: ModelProto
    image: str
    output: str
    dtype: str
    layout: Layout
    window: int
    batch: int | None

    @property
    def opset(self) -> int:
        """The version of ONNX's own operations that it is written in."""
        return int(max(each.version for each in self.model.opset_import if each.domain in ("", "ai.onnx")))


def load_foreign(path: Path, settings: Settings, output: str | None) -> Foreign:
    """The network in an ONNX file, with the weights that lie in files beside it; its functions are written out.

    Raises BundleError for a file that is damaged or needs what is not there, UsageError where the settings do not fit.
    """
    if not path.is_file():
        raise UsageError(f"{path} is no file: name an ONNX network")
    try:
        model = onnx.load(path)
        if model.functions:
            model = inliner.inline_local_functions(model)
    except Exception as error:  # what protobuf, the disk and onnx raise shares no other base
        raise BundleError(f"{path} is no ONNX file that can be read: {first_line(error)}") from error
    image = find_image(model, path)
    dtype = TYPES.get(image.type.tensor_type.elem_type, "unknown")
    if dtype not in TAKEN:
        raise BundleError(
            f"{path}: its {image.name!r} is of another type than {' or '.join(TAKEN)}: export it in these"
        )
    shape = read_shape(image)
    if len(shape) != 4:
        raise BundleError(f"{path}: its {image.name!r} has {len(shape)} dimensions, images have 4: N, height, width, C")
    layout = find_layout(shape, settings.layout, path)
    window = find_window(shape, layout, settings.window, path)
    foreign = Foreign(path, model, image.name, find_output(model, output, path), dtype, layout, window, shape[0])
    if foreign.opset < OLDEST:
        raise BundleError(f"{path}: opset {foreign.opset} is older than {OLDEST}: export it in a newer one")
    return foreign


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """The file itself in ONNX Runtime. Raises BundleError for one that is too new for it or has other operations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it prints what the error says
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions share no base but this
        raise BundleError(
            f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load it: {first_line(error)}"
        ) from error


def find_image(model: ModelProto, path: Path) -> ValueInfoProto:
    """The only input, weights aside, which old files name among them. Raises BundleError."""
    weights = {each.name for each in model.graph.initializer}
    inputs: list[ValueInfoProto] = [each for each in model.graph.input if each.name not in weights]
    if len(inputs) != 1:
        named = ", ".join(each.name for each in inputs[:8]) or "nothing"
        raise BundleError(f"{path} takes {named}; a bundle's network takes one image and nothing else")
    return inputs[0]


def find_output(model: ModelProto, wanted: str | None, path: Path) -> str:
    """The name of the output that is wanted. Raises UsageError where there are several and none is named."""
    names: list[str] = [each.name for each in model.graph.output]
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is None or wanted not in names:
        say = f"--output {wanted}: {path} has none of that name" if wanted else f"{path} has {len(names)} outputs"
        raise UsageError(f"{say}; name one with --output: {', '.join(names[:16])}")
    return wanted


def read_shape(value: ValueInfoProto) -> Shape:
    """The lengths that are fixed, and None for those that are not."""
    return tuple(each.dim_value if each.dim_value > 0 else None for each in value.type.tensor_type.shape.dim)


def find_layout(shape: Shape, said: Layout | None, path: Path) -> Layout:
    """Where the channels are, as the graph or the settings tell. Raises UsageError, or BundleError."""
    told = [layout for layout, at in CHANNELS_AT.items() if shape[at] == RGB]
    layout = said or (told[0] if len(told) == 1 else None)
    if layout is None and not told and None not in (shape[1], shape[3]):
        raise BundleError(f"{path} takes {tell(shape)}, which is no image of {RGB} channels")
    if layout is None:
        raise UsageError(f'{path} takes {tell(shape)}, which does not tell `layout`: set it to "nchw" or "nhwc"')
    if shape[CHANNELS_AT[layout]] not in (RGB, None):
        raise UsageError(f"{path} takes {tell(shape)}, which is no image of {RGB} channels in the layout {layout}")
    return layout


def find_window(shape: Shape, layout: Layout, said: int | None, path: Path) -> int:
    """The side of the square that it takes. Raises UsageError where the settings have another or the graph leaves it
    open, BundleError for no square or one that no bundle may have.
    """
    height, width = shape[2:] if layout == "nchw" else shape[1:3]
    if height and width and height != width:
        raise BundleError(f"{path} takes images of {height} x {width} pixels; windows of slides are squares")
    side = height or width
    if side and said and side != said:
        raise UsageError(f"{path} takes images of {side} x {side} pixels, `window` is {said}")
    if not (side or said):
        raise UsageError(f"{path} takes images of any size: `window` has to say of which")
    window = side or said or 0
    if not SMALLEST_SIDE <= window <= LARGEST_SIDE:
        raise BundleError(
            f"{path} takes images of {window} x {window} pixels; windows of bundles have {SMALLEST_SIDE} to "
            f"{LARGEST_SIDE} along a side"
        )
    return window


def tell(shape: Sequence[int | None]) -> str:
    """A shape in words."""
    return f"[{', '.join('?' if length is None else str(length) for length in shape)}]"


def inner_graphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs within a node, as those of conditions and loops."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def steps_back(graph: GraphProto, output: str) -> Iterator[NodeProto]:
    """The nodes that made an output, the last first: those that only move values, and the one that computed them."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(output)
    while node is not None:
        yield node
        node = makers.get(node.input[0]) if only_moves(node) else None


def only_moves(node: NodeProto) -> bool:
    """Whether a node leaves values as they are, but for where they stand and how finely they are stored."""
    if node.op_type == "Cast":
        return any(each.name == "to" and helper.get_attribute_value(each) in FLOATS for each in node.attribute)
    return node.op_type in MOVING


def find_ending(foreign: Foreign) -> str:
    """The operation that computes the network's output; empty where it has none."""
    return next((node.op_type for node in steps_back(foreign.model.graph, foreign.output) if not only_moves(node)), "")
