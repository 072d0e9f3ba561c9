"""GPUs that are not there, and GPUs that are there and cannot be used, through a driver library that g++ builds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.errors import BackendUnavailable
from glassrt.engine.runtimes import choose as choosing
from glassrt.engine.runtimes import device, flavours, tensorrt
from glassrt.engine.runtimes.device import Device, NoDevice, explain_unused, find_device

GLASSRT = Path(sys.executable).parent / "glassrt"
DRIVER = """
extern "C" int cuInit(unsigned flags) { return %d; }
extern "C" int cuDriverGetVersion(int* version) { *version = %d; return 0; }
"""
CHOOSE = """
from glassrt.engine import open_bundle
from glassrt.engine.runtimes.choose import RUNTIMES, choose
for _ in range(2):
    print(RUNTIMES[choose(open_bundle(), "auto", "fp32")[0]].target)
"""
TOO_OLD = (
    r"no CUDA device can be used: the NVIDIA driver offers CUDA 12\.4 and the packages for GPUs need 13\.0: "
    "install driver 580 or newer"
)
TRAIN = """
from glassrt.training.world import join_world
with join_world() as world:
    print(world.device)
"""


def install_driver(folder: Path, starts: int, version: int) -> dict[str, str]:
    """An environment in which a driver's library says this."""
    (folder / "driver.cpp").write_text(DRIVER % (starts, version))
    subprocess.run(["g++", "-shared", "-fPIC", folder / "driver.cpp", "-o", folder / "libcuda.so.1"], check=True)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}


@pytest.mark.skipif(sys.platform != "linux", reason="drivers are found otherwise")
@pytest.mark.parametrize(
    ("starts", "version", "says"),
    [
        (0, 12040, f"a GPU is not used: {TOO_OLD}"),
        (999, 13000, r"a GPU is not used: .*the NVIDIA driver does not start \(CUDA error 999\)"),
        (100, 13000, None),
    ],
    ids=["too old", "does not start", "no GPU"],
)
@pytest.mark.parametrize(("script", "prints"), [(CHOOSE, ["cpu", "cpu"]), (TRAIN, ["cpu"])], ids=["auto", "training"])
def test_a_gpu_that_cannot_be_used_is_told_in_one_line(
    tmp_path: Path, starts: int, version: int, says: str | None, script: str, prints: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=install_driver(tmp_path, starts, version)
    )
    assert done.stdout.split() == prints, done.stderr
    told = done.stderr.splitlines()
    assert len(told) == (says is not None)
    assert says is None or re.fullmatch(says, told[0])


@pytest.mark.skipif(sys.platform != "linux", reason="drivers are found otherwise")
def test_a_runtime_for_gpus_that_was_asked_for_is_refused_by_the_drivers_age(tmp_path: Path, demo_slide: Path) -> None:
    command = [GLASSRT, "score", demo_slide, "--out", tmp_path / "out", "--backend", "tensorrt-rtx"]
    command += ["--precision", "fp32"]
    done = subprocess.run(command, capture_output=True, text=True, env=install_driver(tmp_path, 0, 12040))
    assert done.returncode == 2
    assert re.fullmatch(f"glassrt: {TOO_OLD}\n", done.stderr)
    assert not (tmp_path / "out").exists()


def test_a_driver_without_its_library_is_told_from_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that was started without the GPU's driver."""
    monkeypatch.setattr(device, "LIBRARY", "libcuda-that-nobody-has.so.1")
    monkeypatch.setattr(device, "NODES", tmp_path)
    with pytest.raises(NoDevice, match="the NVIDIA driver is not installed"):
        find_device()
    assert explain_unused(lambda _: "x") == ""
    (tmp_path / "nvidia0").touch()
    with pytest.raises(BackendUnavailable, match=r"there is a GPU, but .* cannot be loaded .*--gpus all"):
        find_device()
    assert explain_unused(lambda _: "x").startswith("a GPU is not used: there is a GPU, but")


def test_a_gpu_that_no_runtime_here_computes_on_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A Hopper, which TensorRT-RTX does not name, beside what is installed to test with."""
    for module in (device, flavours, tensorrt):
        monkeypatch.setattr(module, "find_device", lambda: Device("NVIDIA H100", "9.0", "580.65"))
    if any(choosing.can_run(name, "fp32") for name in ("tensorrt", "ort-cuda")):
        pytest.skip("a runtime for such GPUs is installed")
    choosing.tell_unused_gpu.cache_clear()
    for _ in range(2):
        name, _ = choosing.choose(open_bundle(), "auto", "fp32")
        assert choosing.RUNTIMES[name].target == "cpu"
    choosing.tell_unused_gpu.cache_clear()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("NVIDIA H100 is not used: tensorrt: not installed (pip install 'glassrt[tensorrt]'); ")
    assert "tensorrt-rtx: does not compute on capability 9.0; ort-cuda: the installed onnxruntime" in line


@pytest.mark.gpu
def test_a_device_is_named_with_what_it_computes_in() -> None:
    if not device.has_device():
        pytest.skip("no CUDA device")
    found = find_device()
    assert found.name
    assert re.fullmatch(r"\d+\.\d", found.capability)
    assert explain_unused(lambda known: known.capability) == f"{found.name} is not used: {found.capability}"
