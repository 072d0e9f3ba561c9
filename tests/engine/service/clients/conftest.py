"""Clients that are compiled with sanitizers, and a picture for scanners."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile

CLIENTS = Path(__file__).parents[4] / "engine" / "service" / "clients"
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{CLIENTS}"]
SANITIZED = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


class Said(NamedTuple):
    """What a call returned, after how long, the client's text, and what the host printed of what it got."""

    status: int
    ms: int
    text: str
    printed: list[str]


Host = Callable[..., list[Said]]


@pytest.fixture(scope="session")
def sources() -> list[Path]:
    """The client's own files in C."""
    return sorted(CLIENTS.glob("*.c"))


def build(target: Path, sources: list[Path]) -> Path:
    command = ["gcc", *STRICT, *SANITIZED, *map(str, sources), "-o", str(target), "-lpthread"]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return target


@pytest.fixture(scope="session")
def scanner(tmp_path_factory: pytest.TempPathFactory, sources: list[Path]) -> Path:
    """The scanner simulator; it aborts where memory is misused, lost, or a sum goes astray."""
    return build(tmp_path_factory.mktemp("scanner") / "scanner", [CLIENTS / "examples" / "scanner.c", *sources])


@pytest.fixture(scope="session")
def host_program(tmp_path_factory: pytest.TempPathFactory, sources: list[Path]) -> Path:
    return build(tmp_path_factory.mktemp("host") / "host", [Path(__file__).with_name("host.c"), *sources])


@pytest.fixture
def host(host_program: Path) -> Host:
    """Make calls, one a line, in a process that has to end well."""

    def call(*lines: str, timeout_s: float = 60) -> list[Said]:
        done = subprocess.run(
            [host_program], input="".join(f"{line}\n" for line in lines), capture_output=True, text=True,
            timeout=timeout_s,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return read_said(done.stdout)

    return call


def read_said(printed: str) -> list[Said]:
    """The calls of a host by what it printed."""
    said, between = [], []
    for line in printed.splitlines():
        if line.startswith("= "):
            _, status, ms, text = line.split(" ", 3)
            said.append(Said(int(status), int(ms), text, between))
            between = []
        else:
            between.append(line)
    return said


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory, demo_slide: Path) -> Path:
    """A part of the real slide as the simulators read it."""
    pixels = tifffile.imread(demo_slide, level=0)[600:1100, 200:900]
    return write_picture(tmp_path_factory.mktemp("picture") / "slide.ppm", pixels)


def write_picture(path: Path, pixels: np.ndarray) -> Path:
    height, width = pixels.shape[:2]
    path.write_bytes(b"P6\n%d %d\n255\n" % (width, height) + np.ascontiguousarray(pixels, np.uint8).tobytes())
    return path


@pytest.fixture
def library(tmp_path: Path, sources: list[Path]) -> Path:
    """The shared library."""
    path = tmp_path / "libglassrt.so"
    flags = ["-O2", "-shared", "-fPIC", "-fvisibility=hidden"]
    subprocess.run(["gcc", *STRICT, *flags, *map(str, sources), "-o", str(path), "-lpthread"], check=True)
    return path


@pytest.fixture
def find_program() -> Callable[[str, str], str]:
    """Where a compiler or interpreter is; skips where it is not."""

    def find(name: str, package: str) -> str:
        found = sys.executable if name == "python" else shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed ({package})")
        return found

    return find
