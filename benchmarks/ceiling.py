"""What a machine could do at most: multiply-accumulates a second of convolutions that fit a processor's caches, or of
large matrix products on a GPU.
"""

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from glassrt.cuda_kernels.compile import import_cupy
from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.parts import RunPrecision
from glassrt.engine.errors import BackendUnavailable, first_line
from glassrt.engine.runtimes.device import find_device

CHANNELS, SIDE, LAYERS = 256, 40, 4
CALLS = 8
MATRIX = 8192  # rows and columns of the products on a GPU
COPIED = 1 << 30  # bytes
STEP = 0.01  # of the eight-bit activations


def measure_ceiling(precisions: set[RunPrecision], threads: int = 0) -> dict[str, float]:
    """GMAC/s of dense 3 x 3 convolutions through OpenVINO on the CPU, the best of some calls, for each precision."""
    from glassrt.engine.runtimes.openvino import openvino

    core, rates = openvino.Core(), dict[str, float]()
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


def measure_gpu_ceiling(precisions: set[RunPrecision]) -> dict[str, float]:
    """GMAC/s of large matrix products on the current CUDA device for each precision that CuPy has, and under `copy`
    the GB/s read plus written by a copy in its memory: the best of some calls, between device events.

    Raises BackendUnavailable.
    """
    find_device()
    require_cublas()
    cupy = import_cupy()
    rates: dict[str, float] = {}
    for precision, kind in (("fp32", cupy.float32), ("fp16", cupy.float16)):
        if precision in precisions:
            left, right = (cupy.ones((MATRIX, MATRIX), kind) for _ in range(2))
            result = cupy.empty_like(left)
            seconds = time_on_device(cupy, lambda: cupy.matmul(left, right, out=result))  # noqa: B023  # called at once
            rates[precision] = MATRIX**3 / seconds / 1e9
    source = cupy.ones(COPIED, cupy.uint8)
    target = cupy.empty_like(source)
    rates["copy"] = 2 * COPIED / time_on_device(cupy, lambda: cupy.copyto(target, source)) / 1e9
    return rates


def require_cublas() -> None:
    """Raise BackendUnavailable unless CuPy finds cuBLAS, which it multiplies matrices with."""
    try:
        import_module("cupy_backends.cuda.libs.cublas")
    except ImportError as error:
        raise BackendUnavailable(
            f"a GPU's ceiling is measured with cuBLAS, which cannot be loaded ({first_line(error)}): "
            "pip install 'nvidia-cublas>=13,<14'"
        ) from error


def time_on_device(cupy: Any, call: Callable[[], object]) -> float:
    """Seconds of a call between two events of the current stream, the best of some."""
    begun, ended = cupy.cuda.Event(), cupy.cuda.Event()
    seconds = []
    for _ in range(CALLS + 1):  # the first loads what it needs
        begun.record()
        call()
        ended.record()
        ended.synchronize()
        seconds.append(float(cupy.cuda.get_elapsed_time(begun, ended)) / 1000)
    return min(seconds[1:])


def stack_layers(quantised: bool) -> Any:
    """Convolutions one upon the other, in eight bits if asked."""
    from glassrt.engine.runtimes.openvino import openvino

    ops = openvino.opset13
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
    """Billions of multiply-accumulates that the bundle's networks take for a window."""
    from glassrt.engine.runtimes.openvino import openvino

    total = 0
    for role, network in bundle.manifest.networks.items():
        model = openvino.Core().read_model(bundle.read_graph(role=role))
        model.reshape({spec.name: list(spec.sized(1)) for spec in network.inputs})
        total += sum(map(count_macs, model.get_ops()))
    return total / 1e9


def count_macs(operation: Any) -> int:
    """Multiply-accumulates of a convolution or matrix product; all others count as none."""
    kind = operation.get_type_name()
    if kind in ("Convolution", "GroupConvolution"):
        weights = list(operation.input(1).get_shape())  # [groups,] out, in, height, width
        return int(np.prod(operation.output(0).get_shape())) * int(np.prod(weights[-3:]))
    if kind == "MatMul":
        return int(np.prod(operation.output(0).get_shape())) * int(operation.input(0).get_shape()[-1])
    return 0
