"""A runtime, and a batch through it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from plain_batch import BUNDLE

from glassrt.engine.production.batch import Job, score_batch
from glassrt.engine.results.summary import Outcome
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend


@pytest.fixture(scope="module")
def backend() -> Backend:
    return open_backend(BUNDLE)


@pytest.fixture
def score(backend: Backend, tmp_path: Path) -> Callable[..., list[Outcome]]:
    """Scores slides into `tmp_path/out`."""

    def run(*paths: Path) -> list[Outcome]:
        return score_batch(paths, Job(BUNDLE, backend, tmp_path / "out"), lambda path: lambda done, total: None)

    return run
