"""The CUDA device that this process computes on."""

import ctypes
import re
import sys
from collections.abc import Callable
from pathlib import Path

from glassrt.cuda_kernels.compile import CudaUnavailable, import_cupy
from glassrt.engine.bundles.parts import Strict
from glassrt.engine.errors import BackendUnavailable

DRIVER = Path("/proc/driver/nvidia/version")
NODES = Path("/dev")
LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
CUDA = 13  # what every package for GPUs is built for
NEEDED_DRIVER = "580"  # the first that offers it
LEAST_CAPABILITY = (7, 5)  # of CUDA 13
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


class NoDevice(BackendUnavailable):
    """There is no GPU, or none that this process may use: nothing that `auto` would have to mention."""


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
    """The current CUDA device.

    Raises NoDevice where there is none, BackendUnavailable where one is that nothing here can compute on: the driver
    does not start or is too old, CuPy is missing, or the GPU is older than CUDA 13 knows.
    """
    supported = ask_driver()
    try:
        cupy = import_cupy()
    except CudaUnavailable as error:
        raise BackendUnavailable(str(error)) from error
    runtime = cupy.cuda.runtime
    try:
        properties = runtime.getDeviceProperties(runtime.getDevice())
    except runtime.CUDARuntimeError as error:
        raise BackendUnavailable(f"no CUDA device can be used: {error}") from error
    name, capability = properties["name"].decode(), (properties["major"], properties["minor"])
    if capability < LEAST_CAPABILITY:
        raise BackendUnavailable(
            f"{name} has compute capability {as_version(capability)}, and CUDA {CUDA} computes on "
            f"{as_version(LEAST_CAPABILITY)} and later"
        )
    return Device(name, as_version(capability), driver_version() or f"CUDA {supported}")


def has_device() -> bool:
    """Whether `find_device` finds one."""
    try:
        find_device()
    except BackendUnavailable:
        return False
    return True


def explain_unused(why: Callable[[Device], str]) -> str:
    """A line on this machine's GPU that is not used: what keeps it from computing, or `why`; nothing without one."""
    try:
        device = find_device()
    except NoDevice:
        return ""
    except BackendUnavailable as error:
        return f"a GPU is not used: {error}"
    return f"{device.name} is not used: {why(device)}"


def ask_driver() -> int:
    """The newest CUDA that the driver offers, 13000 being 13.0. Raises NoDevice or BackendUnavailable.

    The driver's library alone is asked, which takes no time where there is none.
    """
    try:
        driver = ctypes.CDLL(LIBRARY)
    except OSError as error:
        if any(NODES.glob("nvidia[0-9]*")):
            raise BackendUnavailable(
                f"there is a GPU, but its driver's library cannot be loaded ({error}): "
                "install the NVIDIA driver, or start the container with it (--gpus all)"
            ) from error
        raise NoDevice(f"no CUDA device: the NVIDIA driver is not installed ({error})") from error
    if (code := driver.cuInit(0)) == NO_DEVICE:
        raise NoDevice("no CUDA device: the NVIDIA driver finds no GPU, or CUDA_VISIBLE_DEVICES hides it")
    if code:
        raise BackendUnavailable(f"no CUDA device can be used: the NVIDIA driver does not start (CUDA error {code})")
    offered = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(offered))
    if offered.value < 1000 * CUDA:
        found = as_version((offered.value // 1000, offered.value % 1000 // 10))
        raise BackendUnavailable(
            f"no CUDA device can be used: the NVIDIA driver offers CUDA {found} and the packages for GPUs need "
            f"{CUDA}.0: install driver {NEEDED_DRIVER} or newer"
        )
    return offered.value


def driver_version() -> str:
    """The driver's own version where the system tells it, else nothing."""
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", DRIVER.read_text())
    except OSError:
        return ""
    return found.group() if found else ""


def as_version(parts: tuple[int, int]) -> str:
    """(9, 0) as 9.0."""
    return f"{parts[0]}.{parts[1]}"
