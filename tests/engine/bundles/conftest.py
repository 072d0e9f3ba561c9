"""Bundles to be spoilt."""

import shutil
from pathlib import Path

import pytest
import small_bundle

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEFAULT_BUNDLE, tmp_path / "copy.glass"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return small_bundle.make_bundle(tmp_path / "small.glass")
