"""Ctrl-C wherever it comes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from glassrt.engine import open_bundle
from glassrt.engine.commands.interrupt import Interrupt
from glassrt.engine.production import batch
from glassrt.engine.production.batch import Job, score_path
from glassrt.engine.runtimes.open import open_backend

TWO_MODELS = """
import os, signal
from glassrt.engine import open_bundle
from glassrt.engine.runtimes.open import open_backend
signal.signal(signal.SIGINT, signal.default_int_handler)
older, newer = (open_backend(open_bundle(), "openvino", precision=name, tested=False) for name in ("fp32", "int8"))
older.close()
del older
newer.close()
del newer
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_ctrl_c_is_raised_at_the_next_window() -> None:
    seen: list[int] = []

    def work() -> None:
        with Interrupt() as interrupt:
            progress = interrupt.guard(lambda done, total: seen.append(done))
            progress(1, 3)
            press()
            seen.append(-1)
            progress(2, 3)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == [1, -1]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_ctrl_c_is_raised_before_the_next_slide_or_at_the_end() -> None:
    reached: list[str] = []

    def work() -> None:
        with Interrupt():
            press()
            reached.append("end")

    def go_on() -> None:
        with Interrupt() as interrupt:
            press()
            interrupt.guard(lambda done, total: None)
            reached.append("next slide")

    for each in (work, go_on):
        with pytest.raises(KeyboardInterrupt):
            each()
    assert reached == ["end"]


def test_a_second_ctrl_c_does_not_wait() -> None:
    reached: list[int] = []

    def work() -> None:
        with Interrupt():
            for number in range(3):
                reached.append(number)
                press()

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == [0, 1]


def test_a_ctrl_c_that_came_out_as_another_error_does_not_count_as_a_broken_slide(
    demo_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("release unlocked lock")

    bundle = open_bundle()
    monkeypatch.setattr(batch, "score_work", fail)
    with pytest.raises(KeyboardInterrupt):
        score_path(demo_slide, Job(bundle, open_backend(bundle), tmp_path), lambda done, total: None)


def test_a_ctrl_c_after_openvino_closed_several_models_in_any_order_does_not_crash() -> None:
    done = subprocess.run([sys.executable, "-c", TWO_MODELS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
