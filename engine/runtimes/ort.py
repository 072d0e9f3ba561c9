"""ONNX Runtime: on the CPU, on CUDA, or through the TensorRT that it was built with."""

import ctypes
import hashlib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from glassrt.engine.bundles.parts import RunPrecision
from glassrt.engine.bundles.tensors import TensorSpec
from glassrt.engine.cache import check_contents, default_folder, make_folder
from glassrt.engine.errors import BackendUnavailable, BundleError, first_line
from glassrt.engine.runtimes.device import find_device
from glassrt.engine.runtimes.isa import cpu_isa
from glassrt.engine.runtimes.plans import WORKSPACE_BYTES
from glassrt.engine.runtimes.protocol import check_inputs, tell_failure

SUFFIX = "ExecutionProvider"
PROVIDERS = {"ort": "CPU", "ort-cuda": "CUDA", "ort-tensorrt": "Tensorrt"}
REINSTALL = "pip uninstall -y onnxruntime, then pip install 'glassrt[gpu]'"
CUDA_LIBRARIES = ("cudart", "nvrtc", "cublasLt", "cublas", "curand", "cudnn")  # as cuda-pathfinder calls them
REQUANTISE = "WeightBiasQuantization"  # would put layers that were left in float32 into eight bits all the same
TENSORRT_LIBRARIES = ("libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10")
TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


class OrtBackend:
    """One ONNX Runtime session with its batch size fixed, its inputs and outputs bound to memory of the device."""

    streams = 1

    def __init__(self, graph: bytes, batch: int, threads: int, precision: RunPrecision, name: str = "ort") -> None:
        refuse_both_packages()
        self.name = name
        self.version = onnxruntime.__version__
        self.batch = batch
        self.precision = precision
        provider = PROVIDERS[name]
        if provider + SUFFIX not in onnxruntime.get_available_providers():
            raise BackendUnavailable(
                f"backend {name} needs onnxruntime-gpu, and the installed onnxruntime {self.version} knows no "
                f"{provider}: {REINSTALL}"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that spin between calls take the cores from those that read and write.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_free_dimension_override_by_name("batch", batch)
        if name == "ort":
            try:
                self._session = onnxruntime.InferenceSession(
                    graph,
                    options,
                    providers=[provider + SUFFIX],
                    enable_fallback=False,
                    disabled_optimizers=[REQUANTISE],
                )
            except Exception as error:  # the runtime's own exceptions share no base but this
                raise BundleError(f"ONNX Runtime {self.version} cannot load the graph: {first_line(error)}") from error
        else:
            self._session = start_on_gpu(graph, options, name, precision, batch)
        first = self._session.get_providers()[0].removesuffix(SUFFIX)
        if first != provider:
            raise BackendUnavailable(explain(name, f"it would run on {first}"))
        self.device, self.isa = ("CPU", cpu_isa()) if name == "ort" else (find_device().name, find_device().isa)
        self._binding = self._session.io_binding()
        memory = "cpu" if name == "ort" else "cuda"
        self.inputs = tuple(map(describe, self._session.get_inputs()))
        self.outputs = tuple(map(describe, self._session.get_outputs()))
        self._inputs: dict[str, Any] = {spec.name: allocate(spec, memory) for spec in self.inputs}
        self._outputs: dict[str, Any] = {spec.name: allocate(spec, memory) for spec in self.outputs}
        for key, value in self._inputs.items():
            self._binding.bind_ortvalue_input(key, value)
        for key, value in self._outputs.items():
            self._binding.bind_ortvalue_output(key, value)

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        check_inputs(self.inputs, inputs)
        try:
            for name, value in self._inputs.items():
                value.update_inplace(inputs[name])
            self._session.run_with_iobinding(self._binding)
            return {name: value.numpy().copy() for name, value in self._outputs.items()}
        except Exception as error:  # the runtime's own exceptions share no base but this
            raise BackendUnavailable(tell_failure(self, error)) from error

    def close(self) -> None:
        del self._binding, self._session
        self._inputs.clear()
        self._outputs.clear()


def open_graph(
    graph: bytes, batch: int, threads: int, precision: RunPrecision, name: str, throughput: bool
) -> OrtBackend:
    """An ONNX graph in a session. Raises BundleError or BackendUnavailable."""
    return OrtBackend(graph, batch, threads, precision, name)


def start_on_gpu(
    graph: bytes, options: Any, name: str, precision: RunPrecision, batch: int
) -> onnxruntime.InferenceSession:
    """A session whose every layer runs on the GPU. Raises BackendUnavailable."""
    find_device()
    if lack := find_lack(name):
        raise BackendUnavailable(f"backend {name}: {lack}")
    # Else layers that the provider has no kernel for would run on the CPU in silence.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    provider = (PROVIDERS[name] + SUFFIX, provider_options(name, graph, precision, batch))
    options.log_severity_level = 4  # it prints pages of what the error says
    try:
        return onnxruntime.InferenceSession(graph, options, providers=[provider], enable_fallback=False)
    except Exception as error:  # the runtime's own exceptions share no base but this
        raise BackendUnavailable(explain(name, first_line(error))) from error


def describe(tensor: Any) -> TensorSpec:
    """An input or output of a session whose batch is fixed. Raises BundleError."""
    if tensor.type not in TYPES or not all(isinstance(length, int) for length in tensor.shape):
        raise BundleError(
            f"the graph's {tensor.name} is {tensor.type} {tensor.shape}; a bundle's are uint8 or float32, "
            "of fixed shape but for the batch"
        )
    return TensorSpec(tensor.name, TYPES[tensor.type], tuple(tensor.shape))


def allocate(spec: TensorSpec, memory: str) -> Any:
    """Memory for an input or output of a session."""
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(spec.sized(0), np.dtype(spec.dtype), memory, 0)


def explain(name: str, why: str) -> str:
    """One line for a provider that does not run, though all that it loads is there."""
    return (
        f"backend {name}: ONNX Runtime {onnxruntime.__version__} does not run the whole graph on {PROVIDERS[name]} "
        f"({why}): choose another --backend"
    )


def provider_options(name: str, graph: bytes, precision: RunPrecision, batch: int) -> dict[str, str]:
    """How a provider computes: float32 as float32, within bounded memory.

    TensorRT's engines are kept in a folder for each graph, precision, batch and device: ONNX Runtime tells graphs apart
    by the names in them alone, and two trainings have the same.
    """
    if name == "ort-cuda":
        return {"use_tf32": "0"}
    key = (hashlib.sha256(graph).hexdigest(), onnxruntime.__version__, precision, str(batch), *find_device().parts)
    folder = default_folder() / f"{name}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}"
    for each in (folder.parent, folder):
        make_folder(each)
    check_contents(folder)
    return {
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_int8_enable": str(precision == "int8"),
        "trt_max_workspace_size": str(WORKSPACE_BYTES),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder),
    }


def find_lack(name: str, precision: RunPrecision = "fp32") -> str:
    """What a backend misses and how to get it; nothing where all is there.

    What ONNX Runtime's provider links to is loaded here, out of the packages that pip installs: its own way of doing so
    prints what it misses, and to load the provider itself would break it, as it wants to be loaded by ONNX Runtime.
    """
    if PROVIDERS[name] + SUFFIX not in onnxruntime.get_available_providers():
        return f"the installed onnxruntime {onnxruntime.__version__} knows no {PROVIDERS[name]}: {REINSTALL}"
    if name == "ort":
        return ""
    return find_missing_cuda() or (find_missing_tensorrt() if name == "ort-tensorrt" else "")


def find_missing_cuda() -> str:
    """Which of CUDA's libraries cannot be loaded, and what to do; nothing where all can."""
    pathfinder = import_module("cuda.pathfinder")
    for library in CUDA_LIBRARIES:
        try:
            pathfinder.load_nvidia_dynamic_lib(library)
        except RuntimeError as error:
            return f"NVIDIA's {library} cannot be loaded ({first_line(error)}): pip install 'glassrt[gpu]'"
    return ""


def find_missing_tensorrt() -> str:
    """Which of TensorRT's libraries cannot be loaded, and what to do; nothing where all can."""
    for library in TENSORRT_LIBRARIES:
        try:
            load_tensorrt(library)
        except OSError as error:
            return f"TensorRT 10's {library} cannot be loaded ({first_line(error)}): pip install 'tensorrt-cu13<11'"
    return ""


def load_tensorrt(library: str) -> None:
    """Load a library of TensorRT, out of its package or from where the system looks. Raises OSError."""
    package = find_spec("tensorrt_libs")
    folders = [*(package.submodule_search_locations or ())] if package else []
    paths = [path for folder in folders if (path := Path(folder, library)).exists()]
    ctypes.CDLL(str(paths[0]) if paths else library)


def refuse_both_packages() -> None:
    """Raise BackendUnavailable when both builds of ONNX Runtime are installed: they overwrite each other."""
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if is_installed(name)]
    if len(installed) == 2:
        raise BackendUnavailable(
            "onnxruntime and onnxruntime-gpu are both installed and break each other: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one"
        )


def is_installed(name: str) -> bool:
    """Whether a distribution of this name is installed."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
