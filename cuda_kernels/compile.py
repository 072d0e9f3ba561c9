"""Where CUDA sources become kernels: NVRTC through CuPy, once for each device, source and set of options."""

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)  # compute capabilities that every source is known to build for
VARIANTS: dict[str, dict[str, str | int]] = {
    "oeem": {"LOGIT": "float"},
    "beta_kl": {"LOGIT": "float"},
    "windows": {},
    "canvas": {"LOGIT": "float", "CLASSES": 2},
}
"""Every source, with constants it can be built with."""

LOGIT_TYPES = {"float32": "float", "float16": "Half", "bfloat16": "BFloat"}
ROOM = Path(__file__).parent

Array = Any  # cupy.ndarray, which this room must not need for being imported


class CudaUnavailable(RuntimeError):
    """CuPy or a CUDA device is missing, or a kernel cannot be built there."""


def import_cupy() -> Any:
    """The module `cupy`. Raises CudaUnavailable."""
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise CudaUnavailable(f"CuPy cannot be loaded ({error}): pip install 'glassrt[cuda]'") from error


def read_source(name: str) -> str:
    """The CUDA source of that name, whole: the shared text, then its own."""
    texts = ((each, (ROOM / each).read_text("utf-8")) for each in ("device.cuh", f"{name}.cu"))
    return "".join(f'#line 1 "{each}"\n{text}' for each, text in texts)


def lay_options(name: str, **constants: str | int) -> tuple[str, ...]:
    """The compiler's options for a source: its constants, and how it rounds. CuPy asks for `-ftz=true` in any case."""
    exact = ("--fmad=false",) if name == "windows" else ()
    return ("--std=c++17", "-ftz=true", *exact, *(f"-D{key}={value}" for key, value in constants.items()))


def load(name: str, **constants: str | int) -> Callable[[str], Any]:
    """What gives the kernels of a source by name, built for the current device.

    CuPy keeps what it built in its own folder, by source text, options, device and compiler, so a second process
    does not build again. Raises CudaUnavailable.
    """
    cupy = import_cupy()
    try:
        device = cupy.cuda.Device().id
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise CudaUnavailable(f"no CUDA device can be used: {error}") from error
    return _load(cupy, device, name, lay_options(name, **constants))


@functools.cache
def _load(cupy: Any, device: int, name: str, options: tuple[str, ...]) -> Callable[[str], Any]:
    module = cupy.RawModule(code=read_source(name), options=options, backend="nvrtc")
    try:
        module.compile()
    except (cupy.cuda.compiler.CompileException, RuntimeError, ImportError) as error:
        raise CudaUnavailable(f"{name}.cu does not build for CUDA device {device}: {error}") from error
    return functools.cache(module.get_function)


def build(name: str, architecture: int, **constants: str | int) -> str:
    """Build a source for a compute capability (75 is 7.5), no device needed; returns what the assembler reports.

    Raises CudaUnavailable.
    """
    nvrtc = import_cupy().cuda.nvrtc
    added = "--device-as-default-execution-space"  # as CuPy does
    options = (*lay_options(name, **constants), added, f"-arch=sm_{architecture}", "--ptxas-options=-v")
    program = nvrtc.createProgram(read_source(name), f"{name}.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        return str(nvrtc.getProgramLog(program)).rstrip("\0\n ")
    except nvrtc.NVRTCError as error:
        message = nvrtc.getProgramLog(program).strip("\0\n ") or error
        raise CudaUnavailable(f"{name}.cu does not build for sm_{architecture}: {message}") from error
    finally:
        nvrtc.destroyProgram(program)


def parts_of(length: int, rows: int, threads: int, each: int = 4, blocks: int = 1024) -> int:
    """Blocks that share a row of `length` items, of which a thread takes `each` at a time.

    About `blocks` over all rows: enough to fill any device a few times over, and few partial sums.
    """
    return max(1, min(-(-length // (threads * each)), blocks // max(1, rows)))
