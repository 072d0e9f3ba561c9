"""OpenVINO on the CPU."""

import sys
from collections.abc import Mapping
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.parts import RunPrecision
from glassrt.engine.bundles.tensors import TensorSpec
from glassrt.engine.errors import BackendUnavailable, BundleError
from glassrt.engine.runtimes.isa import cpu_isa
from glassrt.engine.runtimes.protocol import check_inputs, tell_failure
from glassrt.engine.runtimes.signal_stack import keep_signal_stack

# OpenVINO would report its use to a server on the internet, from a process that it forks among threads, where it may
# hang for ever. It does not where this package is missing, as it seems to be from here on.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino as openvino  # noqa: E402

NO_BFLOAT16 = "this processor does not compute in bfloat16; choose --precision fp32 or int8"


class OpenVinoBackend:
    """One compiled OpenVINO model with its batch size fixed.

    For `throughput` it runs as many calls at once as it finds best, each on its share of the threads: an eight-bit
    network computes 15 to 25 % more windows a second so, and each takes longer.
    """

    name = "openvino"

    def __init__(
        self, graph: bytes, batch: int, threads: int, precision: RunPrecision, throughput: bool = False
    ) -> None:
        self.version = openvino.__version__.split("-")[0]
        self.batch = batch
        self.precision = precision
        if precision == "bf16" and not has_bfloat16():
            raise BackendUnavailable(NO_BFLOAT16)
        # Left alone, OpenVINO computes in bfloat16 where the processor can.
        hint = "bf16" if precision == "bf16" else "f32"
        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "THROUGHPUT" if throughput else "LATENCY",
        }
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        try:
            model = core.read_model(graph)
            for port in model.inputs:
                shape = port.partial_shape
                shape[0] = batch
                model.reshape({port: shape})
            with keep_signal_stack():
                compiled = core.compile_model(model, "CPU", config)
        except RuntimeError as error:
            told = [line for line in str(error).splitlines() if line.strip()] or ["it is no ONNX graph"]
            raise BundleError(f"OpenVINO {self.version} cannot load the graph: {told[-1]}") from error
        self.inputs, self.outputs = (tuple(map(describe, ports)) for ports in (model.inputs, model.outputs))
        self.device = ", ".join(compiled.get_property("EXECUTION_DEVICES"))
        self.isa = cpu_isa(limited=True)
        self.streams = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._idle: SimpleQueue[openvino.InferRequest] = SimpleQueue()
        for _ in range(self.streams):
            self._idle.put(compiled.create_infer_request())

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        check_inputs(self.inputs, inputs)
        request = self._idle.get()
        try:
            results = request.infer(dict(inputs), share_inputs=True)
            # By place: a port of the compiled model may go by the name of another tensor that it has become one with.
            return {spec.name: results[place] for place, spec in enumerate(self.outputs)}
        except Exception as error:  # the runtime's own exceptions share no base but this
            raise BackendUnavailable(tell_failure(self, error)) from error
        finally:
            self._idle.put(request)

    def close(self) -> None:
        del self._idle


def describe(port: Any) -> TensorSpec:
    """An input or output of a model whose batch is fixed."""
    return TensorSpec(port.any_name, np.dtype(port.element_type.to_dtype()).name, tuple(port.shape))


def open_graph(
    graph: bytes, batch: int, threads: int, precision: RunPrecision, name: str, throughput: bool
) -> OpenVinoBackend:
    """An ONNX graph compiled for the CPU. Raises BundleError or BackendUnavailable."""
    return OpenVinoBackend(graph, batch, threads, precision, throughput)


def find_lack(name: str, precision: RunPrecision) -> str:
    """Why this processor does not compute in a precision; nothing where it does."""
    return NO_BFLOAT16 if precision == "bf16" and not has_bfloat16() else ""


def has_bfloat16() -> bool:
    """Whether this processor computes in bfloat16, as far as OpenVINO is allowed to use it."""
    allowed = cpu_isa(limited=True)
    if allowed != cpu_isa() and "bf16" not in allowed:  # one of its two switches alone does not reach what it says
        return False
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
