"""Bundles that what is verified and recorded is tried on."""

import shutil
from pathlib import Path

import pytest
import small_bundle
from plain_network import PSPNET

from glassrt.engine.bundles.bundle import Bundle, named_files, open_bundle, write_bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A trained network's bundle, as if it was not verified yet."""
    shipped = open_bundle(PSPNET)
    files = {entry.file: shipped.read_pinned(entry) for entry in named_files(shipped.manifest)}
    return write_bundle(tmp_path_factory.mktemp("bundles") / "made.glass", shipped.manifest, files)


@pytest.fixture
def bundle(made: Bundle, tmp_path: Path) -> Bundle:
    return open_bundle(shutil.copytree(made.path, tmp_path / "made.glass"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return small_bundle.make_bundle(tmp_path / "small.glass")
