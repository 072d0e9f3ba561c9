"""Batches in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from plain_batch import score_here

from glassrt.engine.results.summary import Outcome


@pytest.fixture
def score(tmp_path: Path) -> Callable[..., list[Outcome]]:
    """Scores slides into `tmp_path/out`."""

    def run(*paths: Path, **more: object) -> list[Outcome]:
        return score_here(paths, tmp_path / "out", **more)  # type: ignore[arg-type]

    return run
