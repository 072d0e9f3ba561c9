"""Ctrl-C wherever it comes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from glassrt.engine import open_bundle
from glassrt.engine.commands.interrupt import Interrupt
from glassrt.engine.commands.stop import Stop
from glassrt.engine.production import scoring
from glassrt.engine.production.scoring import Job, score_path
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_batch_where_it_asks_and_nowhere_else(number: int) -> None:
    seen: list[int] = []
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with Stop() as stop:
        told = stop.guard(seen.append)
        told(1)
        came = [stop.came]
        os.kill(os.getpid(), number)
        seen.append(-1)
        assert [*came, stop.came] == [False, True]
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                told(2)
    assert seen == [1, -1]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


STUCK = """
import time
from glassrt.engine.commands.stop import Stop
try:
    with Stop() as stop:
        print("held", flush=True)
        while not stop.came:
            time.sleep(0.01)
        print("came", flush=True)
        while True:
            time.sleep(60)
finally:
    print("unwound", flush=True)
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_batch_at_once(first: int, second: int) -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(first)
        assert process.stdout.readline() == "came\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(second)
        assert process.wait(10) == 130
        assert process.stdout.read() == ""


def test_a_ctrl_c_that_came_out_as_another_error_does_not_count_as_a_broken_slide(
    demo_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("release unlocked lock")

    bundle = open_bundle()
    monkeypatch.setattr(scoring, "score_work", fail)
    with pytest.raises(KeyboardInterrupt):
        score_path(demo_slide, demo_slide, tmp_path, Job(bundle, open_backend(bundle)), lambda done, total: None)


def test_a_ctrl_c_after_openvino_closed_several_models_in_any_order_does_not_crash() -> None:
    done = subprocess.run([sys.executable, "-c", TWO_MODELS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
