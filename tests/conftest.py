"""Real material for the tests: the slide in the repository, and data sets where GLASSRT_DATA names them."""

import os
from pathlib import Path

import pytest
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
