"""Processes that compute as lesser processors do: OpenVINO by its switches, everything under an emulator."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from glassrt.engine.runtimes.isa import find_features

# What OpenVINO is limited to, what that needs, and the bits of weights that are right with it.
KINDS = {
    "avx2": ("AVX2", "avx2", 7),
    "avx512": ("AVX512_CORE", "avx512", 7),
    "avx512-vnni": ("AVX512_CORE_VNNI", "avx512_vnni", 8),
}
EMULATOR = shutil.which("qemu-x86_64")


def limits(kind: str) -> dict[str, str]:
    """The environment in which OpenVINO computes as that kind of processor; skips where this one has less."""
    switch, needed, _ = KINDS[kind]
    if needed not in find_features():
        pytest.skip(f"this processor has no {needed}")
    return {**os.environ, "ONEDNN_MAX_CPU_ISA": switch, "OV_CPU_MAX_ISA": switch}


def run_limited(kind: str, code: str, *arguments: object) -> Any:
    """What a program prints as its last line of JSON, run as that kind of processor."""
    return run_child([sys.executable, "-c", code, *map(str, arguments)], limits(kind))


def run_emulated(code: str, *arguments: object) -> Any:
    """The same on an emulated processor with AVX2, which no runtime can tell from a real one."""
    if EMULATOR is None:
        pytest.skip("qemu-x86_64 is not installed (qemu-user)")
    return run_child([EMULATOR, "-cpu", "max", sys.executable, "-c", code, *map(str, arguments)], dict(os.environ))


def run_child(command: Sequence[str], environment: dict[str, str]) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
