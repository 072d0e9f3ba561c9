"""ONNX Runtime: on the CPU, on CUDA, or through the TensorRT that it was built with."""

import contextlib
import ctypes
import hashlib
import io
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from glassrt.engine.backends.protocol import check_input
from glassrt.engine.bundle import RunPrecision
from glassrt.engine.device import find_device
from glassrt.engine.errors import BackendUnavailable, BundleError, first_line
from glassrt.engine.isa import cpu_isa
from glassrt.engine.plans import WORKSPACE_BYTES, default_folder, make_folder

SUFFIX = "ExecutionProvider"
PROVIDERS = {"ort": "CPU", "ort-cuda": "CUDA", "ort-tensorrt": "Tensorrt"}
TYPES: dict[str, np.dtype[Any]] = {"tensor(uint8)": np.dtype(np.uint8), "tensor(float)": np.dtype(np.float32)}


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
                f"{provider}: pip uninstall -y onnxruntime, then pip install 'glassrt[gpu]'"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that spin between calls take the cores from those that read and write.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_free_dimension_override_by_name("batch", batch)
        if name == "ort":
            try:
                self._session = onnxruntime.InferenceSession(graph, options, providers=[provider + SUFFIX])
            except Exception as error:  # the runtime's own exceptions share no base but this
                raise BundleError(f"ONNX Runtime {self.version} cannot load the graph: {first_line(error)}") from error
        else:
            self._session = start_on_gpu(graph, options, name, precision, batch)
        self.device = self._session.get_providers()[0].removesuffix(SUFFIX)
        if self.device != provider:
            raise BackendUnavailable(explain(name, f"it would run on {self.device}"))
        self.isa = cpu_isa() if name == "ort" else find_device().isa
        self._binding = self._session.io_binding()
        memory = "cpu" if name == "ort" else "cuda"
        self._inputs: dict[str, Any] = {each.name: allocate(each, memory) for each in self._session.get_inputs()}
        self._outputs: dict[str, Any] = {each.name: allocate(each, memory) for each in self._session.get_outputs()}
        for key, value in self._inputs.items():
            self._binding.bind_ortvalue_input(key, value)
        for key, value in self._outputs.items():
            self._binding.bind_ortvalue_output(key, value)

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        for name, value in self._inputs.items():
            check_input(name, inputs[name], tuple(value.shape()), TYPES[value.data_type()])
            value.update_inplace(inputs[name])
        self._session.run_with_iobinding(self._binding)
        return {name: value.numpy().copy() for name, value in self._outputs.items()}

    def close(self) -> None:
        del self._binding, self._session
        self._inputs.clear()
        self._outputs.clear()


def start_on_gpu(
    graph: bytes, options: Any, name: str, precision: RunPrecision, batch: int
) -> onnxruntime.InferenceSession:
    """A session whose every layer runs on the GPU. Raises BackendUnavailable."""
    # Else layers that the provider has no kernel for would run on the CPU in silence.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    provider = (PROVIDERS[name] + SUFFIX, provider_options(name, graph, precision, batch))
    options.log_severity_level = 4
    onnxruntime.set_default_logger_severity(4)  # it prints pages of what the error says
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()  # of the packages that pip installs beside it
        return onnxruntime.InferenceSession(graph, options, providers=[provider], enable_fallback=False)
    except Exception as error:  # the runtime's own exceptions share no base but this
        raise BackendUnavailable(explain(name, first_line(error))) from error
    finally:
        onnxruntime.set_default_logger_severity(2)


def allocate(tensor: Any, memory: str) -> Any:
    """Memory for an input or output of a session. Raises BundleError."""
    if tensor.type not in TYPES or not all(isinstance(length, int) for length in tensor.shape):
        raise BundleError(
            f"the graph's {tensor.name} is {tensor.type} {tensor.shape}; a bundle's are uint8 in and float32 out, "
            "of fixed shape but for the batch"
        )
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(tensor.shape, TYPES[tensor.type], memory, 0)


def explain(name: str, why: str) -> str:
    """One line for a provider that does not run; of a library that is missing rather than of what followed from it."""
    return (
        f"backend {name}: ONNX Runtime {onnxruntime.__version__} does not run the whole graph on {PROVIDERS[name]} "
        f"({missing_library(PROVIDERS[name]) or why}): see to the NVIDIA driver and "
        f"pip install 'onnxruntime-gpu[cuda,cudnn]'{' and TensorRT 10' if name == 'ort-tensorrt' else ''}, "
        "or choose another --backend"
    )


def missing_library(provider: str) -> str:
    """What the system's loader says of a provider's library, nothing if it loads."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{provider.lower()}.so"))
    except OSError as error:
        return first_line(error)
    return ""


def provider_options(name: str, graph: bytes, precision: RunPrecision, batch: int) -> dict[str, str]:
    """How a provider computes: float32 as float32, within bounded memory.

    TensorRT's engines are kept in a folder for each graph, precision, batch and device: ONNX Runtime tells graphs apart
    by the names in them alone, and two trainings have the same.
    """
    if name == "ort-cuda":
        return {"use_tf32": "0"}
    key = (hashlib.sha256(graph).hexdigest(), onnxruntime.__version__, precision, str(batch), *find_device().parts)
    folder = default_folder() / f"{name}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}"
    make_folder(folder)
    return {
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_int8_enable": str(precision == "int8"),
        "trt_max_workspace_size": str(WORKSPACE_BYTES),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder),
    }


def has_provider(name: str) -> bool:
    """Whether the installed ONNX Runtime was built with what a backend needs, and what that needs is there too."""
    if PROVIDERS[name] + SUFFIX not in onnxruntime.get_available_providers():
        return False
    if name == "ort-tensorrt":
        try:
            ctypes.CDLL("libnvinfer.so.10")
        except OSError:
            return False
    return True


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
