"""Weights in few bits: on their steps, and so that what follows is moved little."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from glassrt.engine.runtimes.ort import OrtBackend
from glassrt.export import rounding
from glassrt.export.rounding import measure_inputs, round_weights, spread_errors

LARGEST = 64


def make_layer(groups: int, side: int, channels: int = 8) -> bytes:
    """A graph of one convolution of bytes `[N, side, side, channels]`, given in pixels and taken in channels first."""
    random = np.random.default_rng(0)
    weight = random.normal(0, 0.1, (channels, channels // groups, side, side)).astype(np.float32)
    bias = random.normal(0, 0.1, channels).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "w", "b"], ["sums"], "layer", group=groups, pads=[side // 2] * 4),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 32, 32, channels])],
        [helper.make_tensor_value_info("sums", TensorProto.FLOAT, ["n", channels, 32, 32])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def compute(graph: bytes, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": images})[0])


@pytest.mark.parametrize(("groups", "side"), [(1, 1), (1, 3), (8, 5)], ids=["pointwise", "spatial", "depthwise"])
def test_rounded_weights_are_on_their_steps_and_err_less_than_the_nearest(groups: int, side: int) -> None:
    graph = make_layer(groups, side)
    shades = np.random.default_rng(1).integers(60, 200, (6, 32, 32, 1))
    tints = np.random.default_rng(2).integers(-30, 30, (6, 32, 32, 8))
    images = (shades + tints).astype(np.uint8)  # channels that say much the same, as real ones do
    exact = compute(graph, images)
    errors = {}
    for name in ("together", "nearest"):
        model = onnx.load_from_string(graph)
        weight = next(each for each in model.graph.initializer if each.name == "w")
        before = numpy_helper.to_array(weight).reshape(8, -1)
        steps = np.abs(before).max(1, keepdims=True) / LARGEST
        if name == "together":
            layers = [node for node in model.graph.node if node.op_type == "Conv"]
            round_weights(model, layers, measure_inputs(graph, {"image": images[:4]}), LARGEST, {})
            after = numpy_helper.to_array(weight).reshape(8, -1)
            np.testing.assert_allclose(np.abs(after).max(1), np.abs(before).max(1), rtol=1e-6)
            np.testing.assert_allclose(after / steps, (after / steps).round(), atol=1e-3)
        else:
            rounded = ((before / steps).round() * steps).reshape(tuple(weight.dims)).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(rounded, "w"))
        errors[name] = np.abs(compute(model.SerializeToString(), images)[4:] - exact[4:]).mean()
    assert errors["together"] < 0.6 * errors["nearest"]


def test_filters_too_long_are_rounded_to_the_nearest() -> None:
    filters = np.random.default_rng(0).uniform(-64, 64, (1, 3, 7))
    assert np.array_equal(spread_errors(filters, None, LARGEST), filters.round())


def test_layers_left_in_float32_stay_there_in_onnx_runtime() -> None:
    """It would put a convolution between quantised values into eight bits, though its weights are not."""
    weight = np.full((4, 4, 1, 1), 1e-3, np.float32)
    weight[:, 0] = 1.0  # beside which the others are next to nothing in eight bits
    constants = {"one": np.float32(1), "none": np.uint8(0), "w": weight, "b": np.zeros(4, np.float32)}
    constants |= {"fine": np.float32(1 / 64)}
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("QuantizeLinear", ["floats", "one", "none"], ["bytes"]),
        helper.make_node("DequantizeLinear", ["bytes", "one", "none"], ["values"]),
        helper.make_node("Conv", ["values", "w", "b"], ["sums"], "kept"),
        helper.make_node("QuantizeLinear", ["sums", "fine", "none"], ["out_bytes"]),
        helper.make_node("DequantizeLinear", ["out_bytes", "fine", "none"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "kept",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 4, 4, 4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 4, 4, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    image = np.full((1, 4, 4, 4), 255, np.uint8)
    image[:, 0] = 1
    backend = OrtBackend(model.SerializeToString(), 1, 1, "int8")
    (found,) = backend.infer({"image": image}).values()
    np.testing.assert_allclose(found, 1 + 3 * 0.255, atol=1 / 64)


def test_errors_given_on_in_blocks_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    inputs = random.normal(0, 1, (2, 17, 40)) + random.normal(0, 1, (2, 1, 40))
    products, filters = inputs @ inputs.transpose(0, 2, 1), random.uniform(-64, 64, (2, 3, 17))
    found = []
    for block in (1, 5, 64):
        monkeypatch.setattr(rounding, "BLOCK", block)
        found.append(spread_errors(filters, products, LARGEST))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], filters.round())
