"""TensorRT and TensorRT-RTX, which share one interface, and the devices that they build for and compute on."""

import importlib
from functools import cache
from importlib.util import find_spec
from typing import Any

from glassrt.engine.errors import BackendUnavailable
from glassrt.engine.runtimes.device import Device, find_device

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
# What TensorRT-RTX builds for, with a GPU or without: it compiles kernels for the device when it loads an engine. It
# names 7.5 too, but leaves it out of such engines and has no float32 matrix products there.
PORTABLE = Device("every GPU that it knows", "8.0 and later", "any")
LEAST_CAPABILITY = 8.0


def find_flavour() -> str:
    """The flavour of TensorRT that is installed. Raises BackendUnavailable."""
    for flavour, module in MODULES.items():
        if find_spec(module) is not None:
            return flavour
    raise BackendUnavailable("TensorRT is not installed: pip install 'glassrt[tensorrt]' or 'glassrt[tensorrt-rtx]'")


def import_flavour(flavour: str) -> Any:
    """The module `tensorrt` or `tensorrt_rtx`. Raises BackendUnavailable."""
    try:
        return importlib.import_module(MODULES[flavour])
    except (ImportError, OSError) as error:
        raise BackendUnavailable(f"{flavour} cannot be loaded ({error}): pip install 'glassrt[{flavour}]'") from error


@cache
def start_logger(tensorrt: Any) -> Any:
    """The one logger that TensorRT takes in a process; it keeps what went wrong in `errors`."""

    class Logger(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.ERROR, tensorrt.ILogger.INTERNAL_ERROR):
                self.errors.append(message.split("\n", 1)[0])

    return Logger()


def require_device(flavour: str) -> None:
    """Raise BackendUnavailable unless there is a GPU that this flavour of TensorRT computes on."""
    device = find_device()
    if flavour == "tensorrt-rtx" and not names_capability(device.capability):
        raise BackendUnavailable(
            f"{flavour} {import_flavour(flavour).__version__} does not compute on {device.name}, whose compute "
            f"capability is {device.capability}: choose another --backend"
        )


def knows_device() -> bool:
    """Whether TensorRT-RTX computes on this GPU."""
    return names_capability(find_device().capability)


def names_capability(capability: str) -> bool:
    """Whether TensorRT-RTX computes on GPUs of a compute capability such as `8.9` with what is built for all."""
    known = import_flavour("tensorrt-rtx").ComputeCapability.__members__
    return f"SM{capability.replace('.', '')}" in known and float(capability) >= LEAST_CAPABILITY


def choose_device(flavour: str) -> Device:
    """What to build for: this GPU, or with TensorRT-RTX a range of them, so that a plan may be built anywhere."""
    return PORTABLE if flavour == "tensorrt-rtx" else find_device()
