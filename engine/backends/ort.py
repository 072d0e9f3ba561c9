"""ONNX Runtime: on the CPU, on CUDA, or through the TensorRT that it was built with."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from glassrt.engine.bundle import RunPrecision
from glassrt.engine.errors import BackendUnavailable, BundleError
from glassrt.engine.plans import WORKSPACE_BYTES, default_folder

SUFFIX = "ExecutionProvider"
# The first must take the whole graph; TensorRT leaves to CUDA what it has no layer for.
PROVIDERS = {"ort": ("CPU",), "ort-cuda": ("CUDA",), "ort-tensorrt": ("Tensorrt", "CUDA")}
TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


class OrtBackend:
    """One ONNX Runtime session with its batch size fixed, its inputs and outputs bound to memory of the device."""

    def __init__(self, graph: bytes, batch: int, threads: int, precision: RunPrecision, name: str = "ort") -> None:
        refuse_both_packages()
        self.name = name
        self.version = onnxruntime.__version__
        self.batch = batch
        self.precision = precision
        if not has_provider(name):
            raise BackendUnavailable(
                f"backend {name} needs onnxruntime-gpu, and the installed onnxruntime {self.version} knows no "
                f"{PROVIDERS[name][0]}: pip uninstall -y onnxruntime, then pip install 'glassrt[gpu]'"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that spin between calls take the cores from those that read and write.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_free_dimension_override_by_name("batch", batch)
        providers = [(provider + SUFFIX, provider_options(provider, precision)) for provider in PROVIDERS[name]]
        if name != "ort":  # else layers that the device has no kernel for would run on the CPU in silence
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            options.log_severity_level = 4
            onnxruntime.set_default_logger_severity(4)  # it prints pages before it says the same in an error
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=False)
        except Exception as error:  # the runtime's own exceptions share no base but this
            if name == "ort":
                raise BundleError(f"ONNX Runtime {self.version} cannot load the graph: {first_line(error)}") from error
            raise BackendUnavailable(explain(name, first_line(error))) from error
        self.device = self._session.get_providers()[0].removesuffix(SUFFIX)
        if self.device != PROVIDERS[name][0]:
            raise BackendUnavailable(explain(name, f"it would run on {self.device}"))
        self._bind("cpu" if name == "ort" else "cuda")

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        for name, value in self._inputs.items():
            value.update_inplace(inputs[name])
        self._session.run_with_iobinding(self._binding)
        return {name: value.numpy() for name, value in self._outputs.items()}

    def close(self) -> None:
        del self._binding, self._session
        self._inputs.clear()
        self._outputs.clear()

    def _bind(self, memory: str) -> None:
        """Make the inputs and outputs and bind them."""
        self._binding = self._session.io_binding()
        self._inputs: dict[str, Any] = {each.name: allocate(each, memory) for each in self._session.get_inputs()}
        self._outputs: dict[str, Any] = {
            tensor.name: allocate(tensor, memory) for tensor in self._session.get_outputs()
        }
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)


def allocate(tensor: Any, memory: str) -> Any:
    """Memory for an input or output of a session. Raises BundleError."""
    if tensor.type not in TYPES or not all(isinstance(length, int) for length in tensor.shape):
        raise BundleError(
            f"the graph's {tensor.name} is {tensor.type} {tensor.shape}; a bundle's are uint8 in and float32 out, "
            "of fixed shape but for the batch"
        )
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(tensor.shape, TYPES[tensor.type], memory, 0)


def explain(name: str, why: str) -> str:
    """One line for a provider that does not run."""
    return (
        f"backend {name}: ONNX Runtime {onnxruntime.__version__} does not run the whole graph on {PROVIDERS[name][0]} "
        f"({why}): see to the NVIDIA driver and pip install 'onnxruntime-gpu[cuda,cudnn]', or choose another --backend"
    )


def provider_options(provider: str, precision: RunPrecision) -> dict[str, str]:
    """How a provider computes: float32 as float32, within bounded memory, keeping what it builds."""
    if provider == "CUDA":
        return {"use_tf32": "0"}
    if provider == "CPU":
        return {}
    folder = default_folder() / f"onnxruntime-{onnxruntime.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "trt_fp16_enable": str(int(precision == "fp16")),
        "trt_int8_enable": str(int(precision == "int8")),
        "trt_max_workspace_size": str(WORKSPACE_BYTES),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }


def has_provider(name: str) -> bool:
    """Whether the installed ONNX Runtime was built with what a backend needs."""
    return PROVIDERS[name][0] + SUFFIX in onnxruntime.get_available_providers()


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


def first_line(error: Exception) -> str:
    """What an exception says, without the pages some runtimes add."""
    return (str(error).splitlines() or [type(error).__name__])[0]
