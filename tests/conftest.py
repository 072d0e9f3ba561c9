"""Real material for the tests: the slide in the repository, and data sets where GLASSRT_DATA names them; and what
runs CUDA kernels, with or without a device.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from cuda_host import host_cupy
from painted_set import paint_set

DEMO_SLIDE = Path(__file__).parent / "slides" / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="session")
def demo_slide() -> Path:
    return DEMO_SLIDE


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of the unpacked data sets."""
    folder = os.environ.get("GLASSRT_DATA")
    if not folder:
        pytest.skip("GLASSRT_DATA does not name the unpacked data sets")
    assert Path(folder, "glas").is_dir(), f"GLASSRT_DATA={folder} holds no glas/"
    return Path(folder)


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small painted set in the layout of GlaS."""
    folder = tmp_path_factory.mktemp("painted")
    paint_set(folder)
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where g++ leaves what it builds."""
    return tmp_path_factory.mktemp("built")


@pytest.fixture
def host(built: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What stands in for CuPy on the CPU."""
    host_cupy.RawModule.folder = built
    monkeypatch.setitem(sys.modules, "cupy", host_cupy)
    return host_cupy


@pytest.fixture(params=["host", pytest.param("device", marks=pytest.mark.gpu)])
def cupy(request: pytest.FixtureRequest) -> Any:
    """CuPy on a CUDA device, or what stands in for it: tests that ask for it run twice."""
    if request.param == "host":
        return request.getfixturevalue("host")
    real = importlib.import_module("cupy")
    try:
        real.cuda.Device().use()
    except real.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no CUDA device: {error}")
    return real
