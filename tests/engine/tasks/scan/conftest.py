"""What is scanned, what was seen of it before, and what the finished slide gives."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scanned import BUNDLE, MPP

from glassrt.engine import ArraySlide, score
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend


@pytest.fixture(scope="session")
def backend() -> Iterator[Backend]:
    opened = open_backend(BUNDLE, "auto", precision="auto", throughput=True)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def pixels(demo_slide: Path) -> np.ndarray:
    """A part of the demo slide with tissue and glass, whose sides are no multiples of tiles."""
    return tifffile.imread(demo_slide)[400:1900, :1700]


@pytest.fixture(scope="session")
def picture(pixels: np.ndarray) -> np.ndarray:
    """What a scanner saw of the whole before: small, and a little off in colour."""
    small = pixels[: 1500 // 8 * 8, : 1700 // 8 * 8].reshape(187, 8, 212, 8, 3).mean(axis=(1, 3))
    return (small * 0.98 + 2).astype(np.uint8)


@pytest.fixture(scope="session")
def whole(pixels: np.ndarray, picture: np.ndarray, backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan") / "whole"
    score(ArraySlide(pixels, MPP), BUNDLE, folder, backend, overview=picture)
    return folder
