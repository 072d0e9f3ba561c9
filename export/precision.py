"""Lower precisions of a float32 graph: float16 for GPUs, int8 with the layers that would cost accuracy left in float32.

Int8 is static, in the QDQ form that every runtime reads: weights by channel, activations by tensor over the ranges
that real windows gave. CPUs get unsigned activations (U8S8) and weights of seven bits, as many of them would cut off
sums of eight; TensorRT gets signed symmetric activations without quantised biases (S8S8); both come from one pass over
the windows.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from glassrt.engine.bundles.kinds.shared import Shared
from glassrt.engine.bundles.parts import Target
from glassrt.engine.runtimes.ort import OrtBackend
from glassrt.export.comparison import loss, run_each
from glassrt.export.rounding import Inputs, Rounded, measure_inputs, round_weights
from glassrt.export.samples import Samples, count, each, join, take
from glassrt.export.silence import silence_quantiser

# With what lies between the layers too, whole stretches stay in eight bits: a fifth faster than the layers alone.
QUANTISED = ("Conv", "Add", "Concat", "MatMul", "Reshape", "Clip", "Relu")
PERCENTILE = 99.99  # of an activation's values that its range holds
AT_A_TIME = 2  # windows whose every activation is held while ranges are measured: 100 MB each
FLIPS_AIM = 0.0075  # share of pixels that may change class before a layer is left in float32
MOST_KEPT = 16  # beside those that make the outputs
RANKED_ON = 4  # windows at least that each layer alone is measured on, and half of those there are

# Processors without VNNI add two products in sixteen bits: 2 * 255 * 64 fits, 2 * 255 * 127 would be cut off.
WEIGHT_BITS: dict[Target, Literal[7, 8]] = {"cpu": 7, "gpu": 8}
LARGEST_WEIGHT = {7: 64, 8: 127}
STYLES: dict[Target, tuple[QuantType, dict[str, bool]]] = {
    "cpu": (QuantType.QUInt8, {}),
    "gpu": (QuantType.QInt8, {"ActivationSymmetric": True, "QuantizeBias": False}),
}


class Measure(NamedTuple):
    """What a graph among several is measured on: what it is `given`, the outputs of all that are `wanted`, how those
    after it `finish` what it gives, and the share of pixels that may change class.
    """

    given: Samples
    wanted: Samples
    finish: Callable[[Samples], Samples]
    aim: float


class Int8(NamedTuple):
    """Graphs by kind of device, the layers left in float32, and what held-out windows lose (`comparison.loss`)."""

    graphs: Mapping[Target, bytes]
    kept: tuple[str, ...]
    lost: float


def to_float16(graph: bytes) -> bytes:
    """The graph in float16; the pixels' normalisation and the last layers stay float32."""
    model = onnx.load_from_string(graph)
    exact = [*first_nodes(model), *last_layers(model)]
    converted = ONNXModel(convert_float_to_float16(model, keep_io_types=True, node_block_list=exact))
    converted.topological_sort()
    del converted.model.graph.value_info[:]  # it still says float32
    onnx.checker.check_model(converted.model, full_check=True)
    return bytes(converted.model.SerializeToString())


def to_int8(graph: bytes, calibrated: Samples, measured: Samples, kind: Shared, measure: Measure | None = None) -> Int8:
    """The graph in int8, calibrated on windows; others, of other files, measure what was lost: of a graph among several
    what all of them lose by it.
    """
    calibrated = take(calibrated, slice(count(calibrated) // AT_A_TIME * AT_A_TIME))
    exact = run_graph(graph, measured)
    measure = measure or Measure(measured, exact, lambda outputs: outputs, FLIPS_AIM)
    with tempfile.TemporaryDirectory() as folder:
        source, ranges = Path(folder, "fp32.onnx"), Path(folder, "ranges.json")
        source.write_bytes(graph)
        quantiser = Quantiser(source, ranges, calibrated, measure_inputs(graph, calibrated), {})
        some = slice(max(RANKED_ON, count(measured) // 2))
        kept, ranking = last_layers(onnx.load_from_string(graph)), None
        most = len(kept) + MOST_KEPT
        while True:
            made = quantiser.make("cpu", kept)
            lost = loss(measure.finish(run_graph(made, measure.given)), measure.wanted, kind)
            if lost <= measure.aim or len(kept) >= most:
                break
            ranking = ranking or rank_layers(quantiser, take(measured, some), take(exact, some), kept)
            kept.append(next(ranking))
        graphs: dict[Target, bytes] = {"cpu": made, "gpu": quantiser.make("gpu", kept)}
    return Int8(graphs, tuple(kept), lost)


class Quantiser(NamedTuple):
    """A float32 graph on disk, the windows it is calibrated on, where the ranges that these gave are kept, what they
    bring each convolution, and the layers that are rounded already.
    """

    source: Path
    ranges: Path
    samples: Samples
    inputs: Mapping[str, Inputs]
    rounded: dict[tuple[str, int], Rounded]

    def make(self, target: Target, kept: Sequence[str] = (), only: Sequence[str] = ()) -> bytes:
        """The graph with QDQ pairs for a kind of device, but at the layers `kept`; or at the layers `only`."""
        silence_quantiser()
        made, rounded = self.source.with_name("quantised.onnx"), self.source.with_name("rounded.onnx")
        activation, options = STYLES[target]
        model = onnx.load(self.source)
        layers = [node for node in model.graph.node if node.op_type == "Conv"]
        chosen = [node for node in layers if (node.name in only if only else node.name not in kept)]
        round_weights(model, chosen, self.inputs, LARGEST_WEIGHT[WEIGHT_BITS[target]], self.rounded)
        onnx.save(model, rounded)
        quantize_static(
            rounded,
            made,
            Reader(self.samples),
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=activation,
            reduce_range=WEIGHT_BITS[target] == 7,
            nodes_to_quantize=list(only),
            nodes_to_exclude=list(kept),
            calibrate_method=CalibrationMethod.Percentile,
            calibration_cache_path=self.ranges,
            extra_options={**options, "CalibPercentile": PERCENTILE, "CalibStridedMinMax": AT_A_TIME},
        )
        return made.read_bytes()


def rank_layers(quantiser: Quantiser, samples: Samples, exact: Samples, kept: Sequence[str]) -> Iterator[str]:
    """Names of the other convolutions, first the one that alone in int8 moves the outputs furthest."""
    errors = {}
    for node in onnx.load(quantiser.source).graph.node:
        if node.op_type == "Conv" and node.name not in kept:
            found = run_graph(quantiser.make("cpu", only=[node.name]), samples)
            errors[node.name] = sum(float(np.square(found[name] - wanted).sum()) for name, wanted in exact.items())
    return iter(sorted(errors, key=errors.__getitem__, reverse=True))


def first_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that come before any convolution: what prepares the pixels of each input."""
    after: set[str] = set()
    names = []
    for node in model.graph.node:
        if node.op_type == "Conv" or after.intersection(node.input):
            after.update(node.output)
        else:
            names.append(str(node.name))
    return names


def last_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions that make the outputs, the last that leads to each."""
    names: dict[str, None] = {}
    for output in model.graph.output:
        needed = {output.name}
        for node in reversed(model.graph.node):
            if not needed.intersection(node.output):
                continue
            if node.op_type == "Conv":
                names[str(node.name)] = None
                break
            needed.update(node.input)
    return list(names)


def run_graph(graph: bytes, samples: Samples) -> Samples:
    """What a graph gives, whatever its precision, through ONNX Runtime on the CPU."""
    return run_each(OrtBackend(graph, batch=1, threads=0, precision="fp32"), samples)


def run_plainly(graph: bytes, samples: Samples) -> Samples:
    """What a graph gives layer by layer as it is written, without what this processor makes of it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return join([dict(zip(names, session.run(names, dict(window)), strict=True)) for window in each(samples)])


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands windows to the calibration one by one, of the range that it asks for."""

    def __init__(self, samples: Samples) -> None:
        self._windows = each(samples)
        self._range = iter(self._windows)

    def __len__(self) -> int:
        return len(self._windows)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Begin anew with these windows."""
        self._range = iter(self._windows[start_index:end_index])

    def get_next(self) -> Samples | None:
        """The next window as a graph takes it, None at the end."""
        return next(self._range, None)
