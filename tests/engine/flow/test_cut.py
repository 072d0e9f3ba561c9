"""Windows of one input and of several, cut from regions, against a plain statement on the whole image."""

from collections.abc import Mapping

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from glassrt.engine.flow.cut import cut_windows
from glassrt.engine.flow.host import HostRunner
from glassrt.engine.geometry.plan import InputSpec, Layer, Plan, plan
from glassrt.engine.runtimes.openvino import OpenVinoBackend
from glassrt.engine.runtimes.ort import OrtBackend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.resampling import scale_exactly
from glassrt.engine.watch import Clock, Watch

FINE, WIDE = InputSpec("fine", 64), InputSpec("context", 48, 4.0)


def grid_of(width: int, height: int) -> GridReader:
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    pixels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return GridReader(ArraySlide(np.asarray(pixels, np.uint8), 0.5), 0.5)


def cut_plainly(grid: GridReader, layer: Layer, index: int) -> NDArray[np.uint8]:
    """A window of the whole image, scaled as a whole and reflected beyond its borders."""
    view, x, y = layer.windows[index].tolist()
    shown, side = layer.views[view], layer.input.side
    source = grid.at(layer.input.factor)
    assert (source.width, source.height) == layer.size
    image = scale_exactly(source.read(0, 0, *layer.size), (shown.width, shown.height))
    far = 4 * side
    image = np.asarray(cv2.copyMakeBorder(image, far, far, far, far, cv2.BORDER_REFLECT_101))
    window = image[y + far : y + far + side, x + far : x + far + side]
    return window[:, ::-1] if shown.flip else window


@pytest.mark.parametrize("size", [(300, 200), (1000, 700), (50, 40)])
@pytest.mark.parametrize("flips", [False, True])
def test_windows_of_every_input_are_those_of_the_whole_image(size: tuple[int, int], flips: bool) -> None:
    grid = grid_of(*size)
    laid = plan(size, (0.75, 1.0, 1.5), flips, (FINE, WIDE), 48)
    numbers = np.random.default_rng(1).permutation(len(laid.windows))[:40]
    cut = cut_windows(grid, laid, numbers, Clock())
    for layer in laid.layers:
        found = cut[layer.input.name]
        assert found.shape == (len(numbers), layer.input.side, layer.input.side, 3)
        for window, index in zip(found, numbers.tolist(), strict=True):
            off = cv2.absdiff(np.ascontiguousarray(window), np.ascontiguousarray(cut_plainly(grid, layer, index)))
            assert off.max() <= 1  # halfway between two grey levels either may come
            assert (off > 0).mean() < 0.08


@pytest.mark.parametrize("size", [(1000, 700), (150, 90)])
def test_surroundings_that_windows_share_are_given_with_each_and_where_in_them_it_lies(size: tuple[int, int]) -> None:
    grid = grid_of(*size)
    laid = plan(size, (0.75, 1.0), True, (FINE, WIDE._replace(anchor="tile", placed=True)), 48)
    numbers = np.random.default_rng(1).permutation(len(laid.windows))[:40]
    cut = cut_windows(grid, laid, numbers, Clock())
    wide = laid.layers[1]
    assert len(wide.windows) < len(laid.windows) / 2
    assert cut["context"].shape == (len(numbers), 48, 48, 3)
    for window, index in zip(cut["context"], wide.of[numbers].tolist(), strict=True):
        off = cv2.absdiff(np.ascontiguousarray(window), np.ascontiguousarray(cut_plainly(grid, wide, index)))
        assert off.max() <= 1
    assert cut["place"].dtype == np.float32
    assert np.array_equal(cut["place"], laid.places(numbers))
    if size == (1000, 700):  # the surroundings show the fine window where they say that it lies, unmirrored or mirrored
        for number, index in enumerate(numbers.tolist()):
            left, top = np.rint(cut["place"][number] * 48).astype(int)
            shown = cut["context"][number, top + 2 : top + 14, left + 2 : left + 14].astype(float)
            near = cut["fine"][number].reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))[2:14, 2:14]
            assert np.abs(shown - near).mean() < 30, laid.windows[index]  # half a pixel off; else it is 60


def two_inputs() -> bytes:
    """A network whose two outputs are the mean of the fine window and that of its surroundings."""
    made, nodes = [], []
    for spec in (FINE, WIDE):
        made.append(helper.make_tensor_value_info(spec.name, TensorProto.UINT8, ["batch", spec.side, spec.side, 3]))
        nodes.append(helper.make_node("Cast", [spec.name], [f"{spec.name}.float"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("ReduceMean", [f"{spec.name}.float", "axes"], [f"{spec.name}.mean"], keepdims=0))
    axes = helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])
    given = [helper.make_tensor_value_info(f"{spec.name}.mean", TensorProto.FLOAT, ["batch"]) for spec in (FINE, WIDE)]
    model = helper.make_model(
        helper.make_graph(nodes, "means", made, given, [axes]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    return bytes(model.SerializeToString())


class Kept:
    """Keeps what comes, and that all has come."""

    def __init__(self, laid: Plan) -> None:
        self.means = {layer.input.name: np.full(len(laid.windows), np.nan) for layer in laid.layers}
        self.finished = False

    def add(self, indices: NDArray[np.int64], outputs: Mapping[str, NDArray[np.float32]]) -> None:
        for name, means in self.means.items():
            means[indices] = outputs[f"{name}.mean"]

    def drop(self, indices: NDArray[np.int64]) -> None:
        pytest.fail("nothing is missing")

    def finish(self) -> None:
        self.finished = True


@pytest.mark.parametrize("name", ["ort", "openvino"])
def test_a_network_of_two_inputs_is_given_both_of_every_window(name: str) -> None:
    grid = grid_of(700, 500)
    laid = plan((700, 500), (1.0, 1.5), True, (FINE, WIDE), 48)
    graph, batch = two_inputs(), 3
    backend: Backend = (
        OrtBackend(graph, batch, 1, "fp32") if name == "ort" else OpenVinoBackend(graph, batch, 1, "fp32")
    )
    assert [(spec.name, spec.dtype, spec.shape) for spec in backend.inputs] == [
        ("fine", "uint8", (3, 64, 64, 3)),
        ("context", "uint8", (3, 48, 48, 3)),
    ]
    assert {(spec.name, spec.dtype, spec.shape) for spec in backend.outputs} == {
        ("fine.mean", "float32", (3,)),
        ("context.mean", "float32", (3,)),
    }
    kept, told = Kept(laid), []
    HostRunner(backend, 2).run(grid, laid, kept, Watch(lambda done, total: told.append((done, total))))
    backend.close()
    assert kept.finished
    assert told[-1] == (len(laid.windows), len(laid.windows))
    windows = cut_windows(grid, laid, np.arange(len(laid.windows)), Clock())
    for each, means in kept.means.items():
        assert np.abs(means - windows[each].mean(axis=(1, 2, 3))).max() < 0.01
