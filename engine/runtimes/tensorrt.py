"""TensorRT and TensorRT-RTX on a CUDA device."""

import contextlib
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from glassrt.cuda_kernels.compile import import_cupy
from glassrt.engine.bundles.parts import RunPrecision
from glassrt.engine.bundles.tensors import TensorSpec
from glassrt.engine.errors import BackendUnavailable, first_line
from glassrt.engine.runtimes.device import find_device
from glassrt.engine.runtimes.flavours import import_flavour, knows_device, start_logger
from glassrt.engine.runtimes.plans import Plan
from glassrt.engine.runtimes.protocol import Array, check_inputs, tell_failure

POISON = 0xFF  # NaN as a float: what a launch leaves unwritten must not look like the results of the one before

LOGGER = logging.getLogger("glassrt")


class Bound(NamedTuple):
    """A tensor of a plan: its name, its pinned memory as an array, and its memory on the device."""

    name: str
    pinned: Array
    memory: Any

    @property
    def spec(self) -> TensorSpec:
        """What a caller gives or gets of it."""
        return TensorSpec(self.name, self.pinned.dtype.name, self.pinned.shape)


class TensorRtBackend:
    """One plan with its buffers, on a stream of its own.

    Inputs and outputs pass through pinned memory. Copying in, computing and copying out are one CUDA graph where
    TensorRT can be captured, and else are launched one after the other, which the log says.
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
        context = None if self._engine is None else start_context(tensorrt, self._engine)
        if context is None:
            raise BackendUnavailable(f"{self.name} {self.version} cannot load {plan.path}: {' '.join(logger.errors)}")
        self._context = context
        self._gpu = cupy.cuda.Device()  # each thread has one of its own
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._inputs: list[Bound] = []
        self._outputs: list[Bound] = []
        with self._stream:  # memory that CuPy gives out again is free in the order of one stream alone
            for index in range(self._engine.num_io_tensors):
                self._bind(tensorrt, cupy, self._engine.get_tensor_name(index))
        self.inputs, self.outputs = (tuple(each.spec for each in bound) for bound in (self._inputs, self._outputs))
        self._graph: Any = None
        self._graph = self._capture()

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        check_inputs(self.inputs, inputs)
        for bound in self._inputs:
            bound.pinned[...] = inputs[bound.name]
        for bound in self._outputs:
            bound.pinned.view(np.uint8).fill(POISON)
        try:
            with self._gpu:
                self._launch()
        except RuntimeError as error:  # as CUDA's errors are
            raise BackendUnavailable(tell_failure(self, error)) from error
        return {bound.name: bound.pinned.copy() for bound in self._outputs}

    def close(self) -> None:
        with self._gpu:
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

    def _launch(self) -> None:
        """Compute what lies in the inputs, and wait for it."""
        if self._graph is None:
            self._enqueue()
        else:
            self._graph.launch(self._stream)
        self._stream.synchronize()

    def _capture(self) -> Any:
        """All of `_enqueue` as a CUDA graph, or None where TensorRT cannot be captured."""
        for bound in self._inputs:
            bound.pinned[...] = 0
        self._launch()  # what is loaded at first use must be loaded by now
        ask = getattr(self._context, "is_stream_capturable", None)  # of TensorRT-RTX alone
        if ask is not None and not ask(self._stream.ptr):
            LOGGER.info("%s runs without a CUDA graph: it says that it cannot be captured", self.name)
            return None
        try:
            graph = capture(self._stream, self._enqueue)
        except (BackendUnavailable, RuntimeError) as error:  # as CUDA's errors are
            LOGGER.info("%s runs without a CUDA graph: %s", self.name, first_line(error))
            self._launch()  # raises here, not at the first slide, if the failure left more behind
            return None
        return graph


def find_lack(name: str, precision: RunPrecision) -> str:
    """Why this GPU is not computed on; nothing where it is."""
    if name == "tensorrt-rtx" and not knows_device():
        return f"does not compute on capability {find_device().capability}"
    return ""


def start_context(tensorrt: Any, engine: Any) -> Any:
    """What runs an engine, or None. TensorRT-RTX compiles for the shape at once, lest slower kernels are captured."""
    if not hasattr(tensorrt, "DynamicShapesKernelSpecializationStrategy"):
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = tensorrt.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(config)


def capture(stream: Any, enqueue: Callable[[], None]) -> Any:
    """What `enqueue` does to a CuPy stream, as a CUDA graph. Raises what failed, with the stream in working order.

    A capture that failed on its way is ended all the same, as the stream takes no other work until then. Whether it has
    failed is not asked: CuPy raises where CUDA says so.
    """
    stream.begin_capture()
    try:
        enqueue()
    except BaseException:
        with contextlib.suppress(RuntimeError):  # it tells again what was told
            stream.end_capture()
        raise
    return stream.end_capture()
