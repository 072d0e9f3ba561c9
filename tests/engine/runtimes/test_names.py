"""What a graph gives has the names that the graph gives it, whatever a runtime makes of the tensors."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from glassrt.engine.bundles.scan import scan_graph
from glassrt.engine.runtimes.table import load_file

BATCH = 2


def passed_on(given: tuple[str, ...]) -> bytes:
    """The mean `a` of an image and its negative `minus`; `logits` is `a` by another name."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["a"], keepdims=0),
        helper.make_node("Identity", ["a"], ["logits"]),
        helper.make_node("Neg", ["logits"], ["minus"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 4, 4, 3])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in given]
    axes = helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])
    graph = helper.make_graph(nodes, "means", [image], outputs, [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("name", ["ort", "openvino"])
@pytest.mark.parametrize("given", [("logits",), ("logits", "minus"), ("minus", "logits"), ("minus", "logits", "a")])
def test_outputs_have_the_names_of_the_graph(name: str, given: tuple[str, ...]) -> None:
    graph = passed_on(given)
    backend = load_file(name).open_graph(graph, BATCH, 1, "fp32", name, False)
    image = np.arange(BATCH * 48, dtype=np.uint8).reshape(BATCH, 4, 4, 3)
    outputs = backend.infer({"image": image})
    assert [spec.name for spec in backend.outputs] == [spec.name for spec in scan_graph(graph).outputs] == [*given]
    assert [*outputs] == [*given]
    mean = image.mean(axis=(1, 2, 3))
    for each, values in outputs.items():
        np.testing.assert_allclose(values, -mean if each == "minus" else mean)
    backend.close()
