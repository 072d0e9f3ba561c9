"""The CUDA device that this process computes on."""

import ctypes
import re
import sys
from pathlib import Path

from glassrt.cuda_kernels.compile import CudaUnavailable, import_cupy
from glassrt.engine.bundle import Strict
from glassrt.engine.errors import BackendUnavailable

DRIVER = Path("/proc/driver/nvidia/version")


class Device(Strict, frozen=True):
    """A GPU: its name, its compute capability as `9.0`, and the version of its driver."""

    name: str
    capability: str
    driver: str

    @property
    def isa(self) -> str:
        """The compute capability as compilers name it, `sm_90`."""
        return f"sm_{self.capability.replace('.', '')}"

    @property
    def parts(self) -> tuple[str, str, str]:
        """All that tells one device from another."""
        return self.name, self.capability, self.driver


def find_device() -> Device:
    """The current CUDA device. Raises BackendUnavailable where there is none, or no CuPy to ask."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")  # far quicker than to load CuPy
    except OSError as error:
        raise BackendUnavailable(f"no CUDA device: the NVIDIA driver is not installed ({error})") from error
    try:
        cupy = import_cupy()
    except CudaUnavailable as error:
        raise BackendUnavailable(str(error)) from error
    runtime = cupy.cuda.runtime
    try:
        properties = runtime.getDeviceProperties(runtime.getDevice())
        supported = runtime.driverGetVersion()
    except runtime.CUDARuntimeError as error:
        raise BackendUnavailable(f"no CUDA device can be used: {error}") from error
    capability = f"{properties['major']}.{properties['minor']}"
    return Device(properties["name"].decode(), capability, driver_version() or f"CUDA {supported}")


def has_device() -> bool:
    """Whether `find_device` finds one."""
    try:
        find_device()
    except BackendUnavailable:
        return False
    return True


def driver_version() -> str:
    """The driver's own version where the system tells it, else nothing."""
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", DRIVER.read_text())
    except OSError:
        return ""
    return found.group() if found else ""
