"""Ctrl-C wherever it comes."""

import os
import signal
from pathlib import Path

import pytest

from glassrt.engine import batch, open_bundle
from glassrt.engine.backends import open_backend
from glassrt.engine.batch import Job, score_path
from glassrt.engine.interrupt import Interrupt


def test_a_ctrl_c_that_was_swallowed_is_raised_at_the_next_window() -> None:
    seen: list[int] = []

    def work() -> None:
        with Interrupt() as interrupt:
            progress = interrupt.guard(lambda done, total: seen.append(done))
            progress(1, 3)
            with pytest.raises(KeyboardInterrupt):  # as a destructor does
                os.kill(os.getpid(), signal.SIGINT)
            progress(2, 3)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == [1]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_ctrl_c_that_was_swallowed_last_is_raised_at_the_end() -> None:
    def swallow() -> None:
        with Interrupt(), pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        swallow()


def test_a_ctrl_c_that_came_out_as_another_error_does_not_count_as_a_broken_slide(
    demo_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("release unlocked lock")

    bundle = open_bundle()
    monkeypatch.setattr(batch, "score", fail)
    with pytest.raises(KeyboardInterrupt):
        score_path(demo_slide, Job(bundle, open_backend(bundle), tmp_path), lambda done, total: None)
