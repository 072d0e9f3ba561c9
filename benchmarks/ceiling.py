"""What this machine could do at most: multiply-accumulates a second of a convolution that fits its caches."""

import time
from typing import Any

import numpy as np

from glassrt.engine.bundle import Bundle, RunPrecision

CHANNELS, SIDE, LAYERS = 256, 40, 4
CALLS = 8
STEP = 0.01  # of the eight-bit activations


def measure_ceiling(precisions: set[RunPrecision], threads: int = 0) -> dict[RunPrecision, float]:
    """GMAC/s of dense 3 x 3 convolutions through OpenVINO on the CPU, the best of some calls, for each precision."""
    import openvino

    core, rates = openvino.Core(), {}
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    image = np.random.default_rng(0).random((1, CHANNELS, SIDE, SIDE), np.float32)
    for precision in sorted(precisions & {"fp32", "bf16", "int8"}):
        hint = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
        request = core.compile_model(stack_layers(precision == "int8"), "CPU", config | hint).create_infer_request()
        request.infer([image])
        seconds = []
        for _ in range(CALLS):
            start = time.perf_counter()
            request.infer([image], share_inputs=True, share_outputs=True)
            seconds.append(time.perf_counter() - start)
        rates[precision] = LAYERS * (CHANNELS * SIDE * 3) ** 2 / min(seconds) / 1e9
    return rates


def stack_layers(quantised: bool) -> Any:
    """Convolutions one upon the other, in eight bits if asked."""
    import openvino
    from openvino import opset13 as ops

    random = np.random.default_rng(0)
    image = ops.parameter([1, CHANNELS, SIDE, SIDE], np.float32)
    flow = image
    for _ in range(LAYERS):
        weights = ops.constant(random.normal(0, 0.02, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32))
        if quantised:
            flow = round_to_eight_bits(flow, 0, 255)
            weights = round_to_eight_bits(weights, -127, 127)
        flow = ops.relu(ops.convolution(flow, weights, [1, 1], [1, 1], [1, 1], [1, 1]))
    return openvino.Model([flow], [image], "ceiling")


def round_to_eight_bits(flow: Any, lowest: int, highest: int) -> Any:
    """Values on a grid of eight bits, which OpenVINO then computes in."""
    from openvino import opset13 as ops

    ends = [np.float32(STEP * lowest), np.float32(STEP * highest)] * 2
    return ops.fake_quantize(flow, *ends, highest - lowest + 1)


def count_gmac(bundle: Bundle) -> float:
    """Billions of multiply-accumulates that the bundle's convolutions and matrix products take for a window."""
    import openvino

    window = bundle.manifest.window
    model = openvino.Core().read_model(bundle.read_graph())
    model.reshape([1, window, window, 3])
    total = 0
    for operation in model.get_ops():
        kind = operation.get_type_name()
        if kind in ("Convolution", "GroupConvolution"):
            weights = list(operation.input(1).get_shape())  # [groups,] out, in, height, width
            total += int(np.prod(operation.output(0).get_shape())) * int(np.prod(weights[-3:]))
        elif kind == "MatMul":
            total += int(np.prod(operation.output(0).get_shape())) * operation.input(0).get_shape()[-1]
    return total / 1e9
