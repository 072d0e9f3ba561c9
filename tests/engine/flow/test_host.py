"""The network runs beside what cuts its windows and what takes its logits, in order."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from known import image_and_logits, run_windows
from onnx import TensorProto, helper, numpy_helper
from plain_network import PSPNET

from glassrt.engine import open_bundle, score
from glassrt.engine.bundles.bundle import Bundle, write_bundle
from glassrt.engine.bundles.parts import Graph
from glassrt.engine.errors import SlideError
from glassrt.engine.flow.host import HostRunner, infer_batches
from glassrt.engine.runtimes.choose import choose_batch
from glassrt.engine.runtimes.isa import count_cores
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.tasks.segment import lay_windows, segment_image
from glassrt.engine.watch import Clock, Watch

BUNDLE = open_bundle(PSPNET)


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


def number_windows(count: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    for number in range(count):
        yield np.array([number]), {"image": np.full((1, 2, 2, 3), number, np.uint8)}


def test_calls_run_at_once_and_come_back_in_order() -> None:
    backend = Counting()
    with ThreadPoolExecutor(2) as pool:
        found = [
            (int(index[0]), float(outputs["logits"][0, 0]))
            for index, outputs in infer_batches(backend, number_windows(8), pool, Clock())
        ]
    assert found == [(number, number) for number in range(8)]


def test_the_network_works_while_its_logits_are_taken() -> None:
    backend, ahead = Counting(), []
    with ThreadPoolExecutor(2) as pool:
        for _, outputs in infer_batches(backend, number_windows(8), pool, Clock()):
            time.sleep(0.1)
            ahead.append(max(backend.calls) - int(outputs["logits"][0, 0]))
    assert ahead == [4, 4, 4, 4, 3, 2, 1, 0]


def test_a_network_that_fails_ends_it() -> None:
    backend = Counting()
    backend.together = threading.Barrier(1)
    with ThreadPoolExecutor(2) as pool, pytest.raises(RuntimeError, match="no more"):
        list(infer_batches(backend, number_windows(20), pool, Clock()))
    assert max(backend.calls) < 14


class Failing:
    """What takes logits, and fails as it is told."""

    def __init__(self, fail_in: Callable[[str], None]) -> None:
        self.fail_in = fail_in

    def add(self, indices: object, outputs: object) -> None:
        self.fail_in("what takes its logits")

    def drop(self, indices: object) -> None: ...

    def finish(self) -> None: ...


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
        HostRunner(backend, 2).run(grid, windows, Failing(fail_in), Watch())
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
    assert many.batch == choose_batch(BUNDLE, "openvino", "int8") > 1  # 2, or what was measured on this kind
    assert many.streams > 1 or count_cores() == 1
    assert open_backend(BUNDLE, "openvino", throughput=True).batch == choose_batch(BUNDLE, "openvino", "fp32")
    assert open_backend(BUNDLE, "openvino", batch=3, throughput=True).batch == 3


@pytest.mark.parametrize("name", ["ort", "openvino"])
def test_outputs_are_the_callers_own(name: str) -> None:
    window, _ = image_and_logits(BUNDLE)
    backend: Backend = open_backend(BUNDLE, name)
    first = run_windows(backend, window)
    kept = first.copy()
    assert not np.array_equal(run_windows(backend, 255 - window), kept)
    assert np.array_equal(first, kept)


def write_rooted(folder: Path) -> Bundle:
    """A bundle whose logits are roots of the pixels less 100: no numbers where a window is darker."""
    pixels = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 320, 320, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2, 20, 20])
    constants = [
        numpy_helper.from_array(np.float32(100), "darkest"),
        numpy_helper.from_array(np.array([0], np.int64), "first"),
        numpy_helper.from_array(np.array([2], np.int64), "third"),
        numpy_helper.from_array(np.array([1], np.int64), "channels"),
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["means"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Slice", ["means", "first", "third", "channels"], ["two"]),
        helper.make_node("Sub", ["two", "darkest"], ["above"]),
        helper.make_node("Sqrt", ["above"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "rooted", [pixels], [logits], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    content = model.SerializeToString()
    entry = Graph("fp32.onnx", hashlib.sha256(content).hexdigest())
    manifest = msgspec.structs.replace(BUNDLE.manifest, name="rooted", graphs=(entry,), examples=())
    return write_bundle(folder / "rooted.glass", manifest, {"fp32.onnx": content})


@pytest.mark.parametrize("backend", ["ort", "openvino"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_logits_that_are_no_numbers_fail_the_slide_at_their_place(tmp_path: Path, backend: str, scale: float) -> None:
    """One dark window of nine: as a class it would be background, scored."""
    bundle = write_rooted(tmp_path).replace((scale,))
    pixels = np.full((832, 832, 3), (215, 140, 190), np.uint8)
    runtime = open_backend(bundle, backend, batch=2, tested=False)
    assert np.isfinite(segment_image(pixels, BUNDLE.manifest.mpp, bundle, runtime)).all()
    pixels[-100:, -100:] = 110, 60, 120
    place = "x 512, y 512" if scale == 1 else "x 192, y 192"
    told = f"NaN or infinity for the window at {place} of level 0 .*, in fp32 through {backend} .* on CPU"
    with pytest.raises(SlideError, match=told):
        segment_image(pixels, BUNDLE.manifest.mpp, bundle, runtime)
    out = tmp_path / "out"
    with pytest.raises(SlideError, match=told):
        score(ArraySlide(pixels, BUNDLE.manifest.mpp), bundle, out, runtime, tissue="all")
    assert not out.exists()
