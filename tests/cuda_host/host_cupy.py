"""The part of CuPy that GlassRT's kernels are launched through, on the CPU: NumPy arrays and g++.

What it allocates is poisoned and stands between guards, so unwritten results and writes beyond an array are found.
"""

import ctypes
import hashlib
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

HERE = Path(__file__).parent
KERNEL = re.compile(r'extern "C" __global__ void\s+(?:__launch_bounds__\(\w+\)\s+)?(\w+)\(')
GUARD = 4096  # bytes on either side of an array
POISON = 0xFF  # NaN as a float, -1 as an integer


guarded: WeakValueDictionary[int, np.ndarray[Any, Any]] = WeakValueDictionary()  # what `empty` allocated


class CompileError(Exception):
    """g++ refused a source."""


class ndarray(np.ndarray[Any, Any]):
    """An array on the only device there is."""

    device = SimpleNamespace(id=0)


def empty(shape: Any, dtype: Any = float) -> ndarray:
    shape = shape if isinstance(shape, tuple) else (shape,)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.full(size + 2 * GUARD, POISON, np.uint8)
    guarded[id(memory)] = memory
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
    memory = array
    while isinstance(memory.base, np.ndarray):
        memory = memory.base
    if id(memory) in guarded:
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
            f'extern "C" const char *kinds_{name}() {{ return host::kinds({name}); }}\n'
            f'extern "C" const char *launch_{name}(const unsigned *grid, const unsigned *threads, void **arguments) '
            f"{{ return host::launch({name}, grid, threads, arguments); }}\n"
            for name in kernels
        )
        code = f'#include "{HERE / "cuda_host.h"}"\n{self._code}\n{"".join(launchers)}'
        name = hashlib.sha256(repr((code, self._flags)).encode()).hexdigest()[:16]
        source, parts, library = (self.folder / f"{name}.{suffix}" for suffix in ("cpp", "o", "so"))
        source.write_text(code)
        # Compiled and linked apart: cuda_host.h itself answers what the sanitiser finds.
        style = ["-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas"]
        commands = (
            ["g++", "-c", *style, "-fsanitize=alignment", *self._flags, source, "-o", parts],
            ["g++", "-shared", parts, "-o", library],
        )
        for command in commands:
            built = subprocess.run(command, capture_output=True, text=True)
            if built.returncode:
                raise CompileError(built.stderr)
        self._library = ctypes.CDLL(str(library))

    def get_function(self, name: str) -> Any:
        launch, kinds = self._library[f"launch_{name}"], self._library[f"kinds_{name}"]
        launch.restype = kinds.restype = ctypes.c_char_p
        wanted = kinds().decode().split()

        def kernel(grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any]) -> None:
            held = [np.array(each.ctypes.data if isinstance(each, np.ndarray) else each) for each in arguments]
            kinds = ["p" if isinstance(each, np.ndarray) else each.dtype.kind for each in arguments]
            given = [f"{kind}{each.nbytes}" for kind, each in zip(kinds, held, strict=True)]
            assert given == wanted, f"{name} takes {wanted}, not {given}"
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
    runtime=SimpleNamespace(CUDARuntimeError=RuntimeError),
    compiler=SimpleNamespace(CompileException=CompileError),
)
