"""What the backends for GPUs ask before they start, and how a capture ends that fails."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glassrt.engine.runtimes import ort
from glassrt.engine.runtimes.tensorrt import capture

LIBRARY = 'extern "C" int loaded() { return 1; }'


class HostStream:
    """A stream as CUDA and CuPy treat it, without a device: a capture that was invalidated raises wherever it is asked
    about, and blocks the stream until it is ended.
    """

    def __init__(self) -> None:
        self.state = "idle"
        self.done: list[str] = []

    def begin_capture(self) -> None:
        if self.state != "idle":
            raise RuntimeError("cudaErrorIllegalState")
        self.state = "capturing"

    def is_capturing(self) -> bool:
        if self.state == "invalidated":
            raise RuntimeError("the stream was capturing, but an error has invalidated the capture sequence")
        return self.state == "capturing"

    def end_capture(self) -> str:
        ended, self.state = self.state, "idle"
        if ended != "capturing":
            raise RuntimeError("cudaErrorStreamCaptureInvalidated")
        return "graph"

    def synchronize(self) -> None:
        if self.state != "idle":
            self.state = "invalidated"
            raise RuntimeError("cudaErrorStreamCaptureUnsupported")


@pytest.fixture(params=["host", pytest.param("device", marks=pytest.mark.gpu)])
def stream(request: pytest.FixtureRequest) -> Any:
    if request.param == "host":
        return HostStream()
    cupy = importlib.import_module("cupy")
    try:
        cupy.cuda.Device().use()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no CUDA device: {error}")
    return cupy.cuda.Stream(non_blocking=True)


def test_a_capture_that_failed_leaves_a_stream_that_works(stream: Any) -> None:
    """Waiting for the stream is what CUDA forbids, and what fails first where TensorRT waits inside."""

    def refuse() -> None:
        raise ValueError("refused")

    with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureUnsupported"):
        capture(stream, stream.synchronize)
    stream.synchronize()
    with pytest.raises(ValueError, match="refused"):
        capture(stream, refuse)
    stream.synchronize()
    assert capture(stream, lambda: None)
    assert not stream.is_capturing()


@pytest.mark.skipif(sys.platform != "linux", reason="libraries have other names")
@pytest.mark.parametrize("missing", [None, *ort.TENSORRT_LIBRARIES])
def test_each_library_of_tensorrt_is_asked_for(missing: str | None, tmp_path: Path) -> None:
    """Libraries that g++ builds stand where `pip install tensorrt-cu13` puts them."""
    package = tmp_path / "tensorrt_libs"
    package.mkdir()
    (package / "__init__.py").touch()
    (tmp_path / "library.cpp").write_text(LIBRARY)
    for name in ort.TENSORRT_LIBRARIES:
        if name != missing:
            subprocess.run(["g++", "-shared", "-fPIC", tmp_path / "library.cpp", "-o", package / name], check=True)
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from glassrt.engine.runtimes.ort import find_missing_tensorrt as find\n"
        "print(find())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    if missing is None:
        assert line == ""
    else:
        assert line.startswith(f"TensorRT 10's {missing} cannot be loaded (")
        assert line.endswith("pip install 'tensorrt-cu13<11'")


def test_a_cpus_onnxruntime_is_named_where_a_gpus_is_needed() -> None:
    if "CUDAExecutionProvider" in ort.onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    assert ort.find_lack("ort") == ""
    for name in ("ort-cuda", "ort-tensorrt"):
        assert "knows no " in ort.find_lack(name)
