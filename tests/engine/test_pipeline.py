"""The network runs beside what cuts its windows and what takes its logits, in order."""

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from glassrt.benchmarks.machine import count_cores
from glassrt.engine import open_bundle
from glassrt.engine.backends import Backend, open_backend, run_windows
from glassrt.engine.grid import GridReader
from glassrt.engine.pipeline import Clock, infer_batches, infer_windows
from glassrt.engine.segment import lay_windows, segment_image
from glassrt.engine.slide import ArraySlide

BUNDLE = open_bundle()


class Counting:
    """A runtime of two streams that gives back each window's first value, later for earlier windows."""

    name, device, version, precision, batch, streams = "counting", "none", "0", "fp32", 1, 2

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.together = threading.Barrier(2)

    def infer(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        number = int(inputs["image"].flat[0])
        self.calls.append(number)
        if number == 8:
            raise RuntimeError("no more")
        self.together.wait(timeout=10)  # breaks where one call waits for the other
        time.sleep(0.02 * (number % 2 == 0))
        return {"logits": np.full((1, 1), number, np.float32)}

    def close(self) -> None:
        pass


def number_windows(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for number in range(count):
        yield np.array([number]), np.full((1, 2, 2, 3), number, np.uint8)


def test_calls_run_at_once_and_come_back_in_order() -> None:
    backend = Counting()
    with ThreadPoolExecutor(2) as pool:
        found = [
            (int(index[0]), float(logits[0, 0]))
            for index, logits in infer_batches(backend, number_windows(8), pool, Clock())
        ]
    assert found == [(number, number) for number in range(8)]


def test_the_network_works_while_its_logits_are_taken() -> None:
    backend, ahead = Counting(), []
    with ThreadPoolExecutor(2) as pool:
        for _, logits in infer_batches(backend, number_windows(8), pool, Clock()):
            time.sleep(0.1)
            ahead.append(max(backend.calls) - int(logits[0, 0]))
    assert ahead == [4, 4, 4, 4, 3, 2, 1, 0]


def test_a_network_that_fails_ends_it() -> None:
    backend = Counting()
    backend.together = threading.Barrier(1)
    with ThreadPoolExecutor(2) as pool, pytest.raises(RuntimeError, match="no more"):
        list(infer_batches(backend, number_windows(20), pool, Clock()))
    assert max(backend.calls) < 14


@pytest.mark.parametrize("who", ["the network", "what takes its logits", "the reader"])
def test_a_failure_of_any_thread_ends_all(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread is left, and the backend may be closed at once."""
    grid = GridReader(ArraySlide(np.full((1800, 1800, 3), 200, np.uint8), BUNDLE.manifest.mpp), BUNDLE.manifest.mpp)
    backend = open_backend(BUNDLE, "openvino", precision="int8", throughput=True)
    calls: list[str] = []

    def fail_in(what: str) -> None:
        calls.append(what)
        if what == who and calls.count(what) == 3:
            raise RuntimeError(f"{who} failed")

    def infer(inputs: Mapping[str, Any], infer: Any = backend.infer) -> Mapping[str, Any]:
        fail_in("the network")
        return infer(inputs)  # type: ignore[no-any-return]

    def read(*box: int, read: Any = grid.read) -> np.ndarray:
        fail_in("the reader")
        return read(*box)  # type: ignore[no-any-return]

    monkeypatch.setattr(backend, "infer", infer)
    monkeypatch.setattr(GridReader, "read", lambda self, *box: read(*box))
    windows = lay_windows(grid, BUNDLE.replace((1.0, 2.0), True))
    before = threading.active_count()
    with pytest.raises(RuntimeError, match=f"{who} failed"):
        infer_windows(grid, windows, backend, 2, lambda indices, logits: fail_in("what takes its logits"), Clock())
    assert threading.active_count() == before
    backend.close()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_streams_change_nothing_that_is_computed(precision: str) -> None:
    random = np.random.default_rng(0)
    pixels = np.kron(random.integers(0, 256, (60, 70, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    maps = []
    for throughput in (False, True):
        backend = open_backend(BUNDLE, "openvino", precision=precision, throughput=throughput)
        maps.append(segment_image(pixels, BUNDLE.manifest.mpp, BUNDLE, backend))
        backend.close()
    assert np.abs(maps[0] - maps[1]).max() < 1e-4


def test_throughput_may_take_larger_batches_and_more_calls_at_once() -> None:
    one = open_backend(BUNDLE, "openvino", precision="int8")
    many = open_backend(BUNDLE, "openvino", precision="int8", throughput=True)
    assert (one.batch, one.streams) == (1, 1)
    assert many.batch == 2
    assert many.streams > 1 or count_cores() == 1
    assert open_backend(BUNDLE, "openvino", throughput=True).batch == 1
    assert open_backend(BUNDLE, "openvino", batch=3, throughput=True).batch == 3


@pytest.mark.parametrize("name", ["ort", "openvino"])
def test_outputs_are_the_callers_own(name: str) -> None:
    window, _ = BUNDLE.read_example() or pytest.fail("no example")
    backend: Backend = open_backend(BUNDLE, name)
    first = run_windows(backend, window)
    kept = first.copy()
    assert not np.array_equal(run_windows(backend, 255 - window), kept)
    assert np.array_equal(first, kept)
