"""Every source builds for every architecture, and what cannot work says so."""

import functools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glassrt.benchmarks import cli as commands
from glassrt.cuda_kernels import compile as building
from glassrt.cuda_kernels.compile import ARCHITECTURES, LOGIT_TYPES, ROOM, VARIANTS, CudaUnavailable


def test_every_source_is_a_variant() -> None:
    assert {path.stem for path in ROOM.glob("*.cu")} == set(VARIANTS)


@pytest.fixture(scope="module")
def build() -> Callable[..., str]:
    """Builds a source and remembers what the assembler reported: that depends on nothing but what it is given."""
    return functools.cache(building.build)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_source_builds_without_spilling(build: Callable[..., str], name: str, architecture: int) -> None:
    report = build(name, architecture, **VARIANTS[name])
    assert re.search(rf"Compiling entry function '\w+' for 'sm_{architecture}'", report)
    assert set(re.findall(r"(\d+) bytes spill", report)) == {"0"}


@pytest.mark.parametrize("logit", LOGIT_TYPES.values())
@pytest.mark.parametrize("name", [name for name, constants in VARIANTS.items() if "LOGIT" in constants])
def test_a_source_builds_for_every_type_of_logits(build: Callable[..., str], name: str, logit: str) -> None:
    assert "ptxas info" in build(name, 75, **{**VARIANTS[name], "LOGIT": logit})


def test_the_benchmark_reports_every_kernel_for_every_architecture(
    build: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "build", build)
    figures = tmp_path / "kernels.json"
    commands.kernels_command(report=True, json=figures)
    builds = json.loads(figures.read_text())["builds"]
    declared = sum(path.read_text().count('extern "C" __global__') for path in ROOM.glob("*.cu"))
    assert len(builds) == declared * len(ARCHITECTURES)
    for made in builds:
        assert 0 < made["registers"] <= 255
        assert made["spilled_bytes"] == 0
    shared = {each["kernel"]: each["shared_bytes"] for each in builds}
    assert shared["beta_kl_count"] >= 4 * 2048  # its histogram
    assert shared["cut_windows"] == 0


def test_a_source_that_does_not_build_says_where() -> None:
    with pytest.raises(CudaUnavailable, match=r"canvas\.cu does not build for sm_90: canvas\.cu\(\d+\): error: "):
        building.build("canvas", 90, LOGIT="float")  # without its classes


def test_without_cupy_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(CudaUnavailable, match=r"CuPy cannot be loaded .*: pip install 'glassrt\[cuda\]'"):
        building.load("oeem")


def test_without_a_device_the_message_says_so() -> None:
    cupy = pytest.importorskip("cupy")
    try:
        cupy.cuda.Device().use()
    except cupy.cuda.runtime.CUDARuntimeError:
        with pytest.raises(CudaUnavailable, match="no CUDA device can be used: cuda"):
            building.load("oeem")
    else:
        pytest.skip("there is a CUDA device")


def test_a_module_is_built_once_for_each_set_of_constants(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    compile_module = host.RawModule.compile
    monkeypatch.setattr(host.RawModule, "compile", lambda self: (built.append(1), compile_module(self)))
    building._load.cache_clear()
    first, again, other = (building.load("oeem", LOGIT=logit) for logit in ("float", "float", "Half"))
    assert first is again
    assert first is not other
    assert len(built) == 2
