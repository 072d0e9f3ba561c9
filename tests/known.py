"""What a bundle's network is known to give, and what a runtime gives."""

import numpy as np
import onnx

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.runtimes.protocol import Backend


def image_and_logits(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """The stored window `[1, H, W, 3]` and its exact logits `[1, C, h, w]`."""
    known = bundle.read_example()
    assert known is not None
    return known.inputs["image"], known.outputs["logits"]


def run_windows(backend: Backend, windows: np.ndarray) -> np.ndarray:
    """What a network of one input and one output gives for windows `[N, H, W, 3]`, N being the backend's batch."""
    (image,) = backend.inputs
    (given,) = backend.infer({image.name: windows}).values()
    return given


def tell_precisions(graph: bytes) -> dict[str, str]:
    """Whether a quantised graph's convolutions compute in int8 or in fp32, by their names."""
    model = onnx.load_from_string(graph)
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    return {
        node.name: "int8" if made_by.get(node.input[1]) == "DequantizeLinear" else "fp32"
        for node in model.graph.node
        if node.op_type == "Conv"
    }
