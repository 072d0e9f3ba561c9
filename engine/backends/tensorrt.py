"""TensorRT and TensorRT-RTX on a CUDA device."""

import contextlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from glassrt.cuda_kernels.compile import import_cupy
from glassrt.engine.backends.protocol import Array, check_input
from glassrt.engine.bundle import RunPrecision
from glassrt.engine.device import find_device
from glassrt.engine.errors import BackendUnavailable
from glassrt.engine.plans import Plan, import_flavour, start_logger


class Bound(NamedTuple):
    """A tensor of a plan: its name, its pinned memory as an array, and its memory on the device."""

    name: str
    pinned: Array
    memory: Any


class TensorRtBackend:
    """One plan with its buffers, on a stream of its own.

    Inputs and outputs pass through pinned memory. Copying in, computing and copying out are one CUDA graph where
    TensorRT can be captured.
    """

    streams = 1

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        device = find_device()
        self.device, self.isa = device.name, device.isa
        self.name, self.version = plan.key.flavour, plan.key.version
        self.batch = plan.key.batch
        self.precision: RunPrecision = plan.key.precision
        tensorrt, cupy = import_flavour(self.name), import_cupy()
        logger = start_logger(tensorrt)
        logger.errors.clear()
        self._runtime = tensorrt.Runtime(logger)  # the engine may use it as long as it lives
        self._engine = self._runtime.deserialize_cuda_engine(plan.engine)
        context = None if self._engine is None else self._engine.create_execution_context()
        if context is None:
            raise BackendUnavailable(f"{self.name} {self.version} cannot load {plan.path}: {' '.join(logger.errors)}")
        self._context = context
        self._gpu = cupy.cuda.Device()  # each thread has one of its own
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._cuda_error = cupy.cuda.runtime.CUDARuntimeError
        self._inputs: list[Bound] = []
        self._outputs: list[Bound] = []
        for index in range(self._engine.num_io_tensors):
            self._bind(tensorrt, cupy, self._engine.get_tensor_name(index))
        self._graph = self._capture()

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        for bound in self._inputs:
            check_input(bound.name, inputs[bound.name], bound.pinned.shape, bound.pinned.dtype)
            bound.pinned[...] = inputs[bound.name]
        with self._gpu:
            if self._graph is None:
                self._enqueue()
            else:
                self._graph.launch(self._stream)
            self._stream.synchronize()
        return {bound.name: bound.pinned.copy() for bound in self._outputs}

    def close(self) -> None:
        # In this order: a context must not outlive its engine, nor an engine its runtime.
        self._graph = None
        del self._context, self._engine, self._runtime
        self._inputs, self._outputs = [], []

    def _bind(self, tensorrt: Any, cupy: Any, name: str) -> None:
        """Give a tensor of the plan its memory, pinned and on the device."""
        is_input = self._engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT
        if is_input:
            least, _, _ = self._engine.get_tensor_profile_shape(name, 0)  # a plan has one shape: the three are alike
            self._context.set_input_shape(name, least)
        shape = tuple(self._context.get_tensor_shape(name))
        dtype = np.dtype(tensorrt.nptype(self._engine.get_tensor_dtype(name)))
        memory = cupy.cuda.alloc(math.prod(shape) * dtype.itemsize)
        self._context.set_tensor_address(name, memory.ptr)
        pinned = cupy.cuda.alloc_pinned_memory(memory.mem.size)
        array = np.frombuffer(pinned, dtype, math.prod(shape)).reshape(shape)
        (self._inputs if is_input else self._outputs).append(Bound(name, array, memory))

    def _enqueue(self) -> None:
        """Copy in, compute and copy out, in the stream's order."""
        for bound in self._inputs:
            bound.memory.copy_from_host_async(bound.pinned.ctypes.data, bound.pinned.nbytes, self._stream)
        if not self._context.execute_async_v3(self._stream.ptr):
            raise BackendUnavailable(f"{self.name} {self.version} on {self.device} cannot run its plan")
        for bound in self._outputs:
            bound.memory.copy_to_host_async(bound.pinned.ctypes.data, bound.pinned.nbytes, self._stream)

    def _capture(self) -> Any:
        """All of `_enqueue` as a CUDA graph, or None where TensorRT cannot be captured."""
        self._enqueue()  # what is loaded at first use must be loaded by now
        self._stream.synchronize()
        ask = getattr(self._context, "is_stream_capturable", None)  # of TensorRT-RTX alone
        if ask is not None and not ask(self._stream.ptr):
            return None
        self._stream.begin_capture()
        try:
            self._enqueue()
            return self._stream.end_capture()
        except (BackendUnavailable, self._cuda_error):
            if self._stream.is_capturing():
                with contextlib.suppress(self._cuda_error):  # it tells again what was told
                    self._stream.end_capture()
            return None
