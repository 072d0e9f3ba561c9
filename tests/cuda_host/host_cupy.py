"""The part of CuPy that GlassRT's kernels are launched through, on the CPU: NumPy arrays and g++.

What it allocates is poisoned and stands between guards, so unwritten results and writes beyond an array are found.
"""

import ctypes
import hashlib
import itertools
import re
import subprocess
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

HERE = Path(__file__).parent
KERNEL = re.compile(r'extern "C" __global__ void\s+(?:__launch_bounds__\(\w+\)\s+)?(\w+)\(')
GUARD = 4096  # bytes on either side of an array
POISON = 0xFF  # NaN as a float, -1 as an integer


class CompileError(Exception):
    """g++ refused a source."""


class ndarray(np.ndarray[Any, Any]):  # noqa: N801: CuPy's name
    """An array on the only device there is."""

    device = SimpleNamespace(id=0)


def empty(shape: Any, dtype: Any = float) -> ndarray:
    shape = shape if isinstance(shape, tuple) else (shape,)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.full(size + 2 * GUARD, POISON, np.uint8)
    return np.ndarray(shape, dtype, memory.data, GUARD).view(ndarray)


def zeros(shape: Any, dtype: Any = float) -> ndarray:
    made = empty(shape, dtype)
    made[...] = 0
    return made


def empty_like(array: np.ndarray[Any, Any]) -> ndarray:
    return empty(array.shape, array.dtype)


def asarray(array: Any) -> ndarray:
    array = np.asarray(array)
    made = empty(array.shape, array.dtype)
    made[...] = array
    return made


def asnumpy(array: ndarray) -> np.ndarray[Any, Any]:
    return np.array(array)


def from_dlpack(tensor: Any) -> ndarray:
    """A view of a torch tensor on the CPU."""
    return tensor.numpy().view(ndarray)  # type: ignore[no-any-return]


def check_guards(array: np.ndarray[Any, Any]) -> None:
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        memory = np.frombuffer(base, np.uint8)
        assert (memory[:GUARD] == POISON).all(), "a kernel wrote before an array"
        assert (memory[-GUARD:] == POISON).all(), "a kernel wrote behind an array"


class RawModule:
    """One source built by g++ under cuda_host.h."""

    folder: Path  # where libraries are built, set by the fixture

    def __init__(self, code: str, options: tuple[str, ...], backend: str) -> None:
        assert backend == "nvrtc"
        self._code = code
        self._flags = [option for option in options if option.startswith("-D")]

    def compile(self) -> None:
        kernels = KERNEL.findall(self._code)
        launchers = (
            f'extern "C" const size_t *sizes_{name}() {{ return host::sizes({name}); }}\n'
            f'extern "C" const char *launch_{name}(const unsigned *grid, const unsigned *threads, void **arguments) '
            f"{{ return host::launch({name}, grid, threads, arguments); }}\n"
            for name in kernels
        )
        code = f'#include "{HERE / "cuda_host.h"}"\n{self._code}\n{"".join(launchers)}'
        name = hashlib.sha256(repr((code, self._flags)).encode()).hexdigest()[:16]
        source, library = self.folder / f"{name}.cpp", self.folder / f"{name}.so"
        source.write_text(code)
        command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas"]
        built = subprocess.run([*command, *self._flags, source, "-o", library], capture_output=True, text=True)
        if built.returncode:
            raise CompileError(built.stderr)
        self._library = ctypes.CDLL(str(library))

    def get_function(self, name: str) -> Any:
        launch, sizes = self._library[f"launch_{name}"], self._library[f"sizes_{name}"]
        launch.restype, sizes.restype = ctypes.c_char_p, ctypes.POINTER(ctypes.c_size_t)
        wanted = list(itertools.takewhile(bool, sizes()))

        def kernel(grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any]) -> None:
            held = [np.array(each.ctypes.data if isinstance(each, np.ndarray) else each) for each in arguments]
            given = [each.nbytes for each in held]
            assert given == wanted, f"{name} takes arguments of {wanted} bytes, not {given}"
            pointers = (ctypes.c_void_p * len(held))(*(each.ctypes.data for each in held))
            counts = [(ctypes.c_uint * 3)(*each, *(1,) * (3 - len(each))) for each in (grid, block)]
            problem = launch(*counts, pointers)
            assert problem is None, f"{name}: {problem.decode()}"
            for each in arguments:
                if isinstance(each, np.ndarray):
                    check_guards(each)

        return kernel


class _Device:
    id = 0


cuda = SimpleNamespace(
    Device=_Device,
    ExternalStream=nullcontext,
    runtime=SimpleNamespace(CUDARuntimeError=RuntimeError),
    compiler=SimpleNamespace(CompileException=CompileError),
)
