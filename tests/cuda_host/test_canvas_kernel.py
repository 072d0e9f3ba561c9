"""The canvas kernels against the engine's canvas and map file, on the CPU and on a CUDA device."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from glassrt.cuda_kernels import canvas
from glassrt.cuda_kernels.canvas import Band, View
from glassrt.engine.geometry.plan import InputSpec, Plan, plan
from glassrt.engine.maps.canvas import Canvas, Tile
from glassrt.engine.maps.mapfile import MapFile, MapWriter

WINDOW, STRIDE, SIDE = 32, 24, 4  # of windows in scaled pixels; of their logits
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def lay_plan(tissue: bool) -> Plan:
    mask = np.random.default_rng(3).random((6, 8)) < 0.4 if tissue else None
    return plan((150, 110), (0.75, 1, 1.5), True, (InputSpec("image", WINDOW),), STRIDE, mask)


def compose_on_cpu(laid: Plan, logits: NDArray[Any], map_size: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Probabilities and cover of the whole map, by the engine's canvas."""
    probabilities = np.zeros((logits.shape[1], map_size[1], map_size[0]), np.float32)
    analysed = np.zeros(probabilities.shape[1:], np.bool_)

    def place(tile: Tile) -> None:
        height, width = tile.analysed.shape
        where = np.s_[tile.top : tile.top + height, tile.left : tile.left + width]
        probabilities[:, where[0], where[1]] = tile.probabilities
        analysed[where] = tile.analysed

    made = Canvas(laid, WINDOW // SIDE, map_size, place)
    made.add(np.arange(len(logits)), {"logits": logits.astype(np.float32)})
    made.finish()
    return probabilities, analysed


def lay_view(laid: Plan, number: int) -> View:
    """One view of a plan as the kernel takes it."""
    view = laid.views[number]
    xs, ys = np.unique(view.xs).astype(np.int32), np.unique(view.ys).astype(np.int32)
    slots = np.full((len(ys), len(xs)), -1, np.int32)
    for index in np.flatnonzero(laid.windows[:, 0] == number):
        _, x, y = laid.windows[index]
        slots[np.searchsorted(ys, y), np.searchsorted(xs, x)] = index
    return View(view.width, view.height, WINDOW, view.flip, xs, ys, slots)


def compose(cupy: Any, laid: Plan, logits: NDArray[Any], map_size: tuple[int, int], rows: int) -> Any:
    """The whole map in bands of at most that many rows: total, seen and the finished planes."""
    bands, width = [], map_size[0]
    on_device = cupy.asarray(logits)
    for top in range(0, map_size[1], rows):
        height = min(rows, map_size[1] - top)
        arrays = cupy.zeros((logits.shape[1], height, width), np.float32), cupy.zeros((height, width), np.float32)
        band = Band(*map_size, 0, top, *arrays)
        for number in range(len(laid.views)):
            canvas.add_view(band, lay_view(laid, number), on_device)
        planes = canvas.finish(band)
        bands.append([cupy.asnumpy(each) for each in (*arrays, planes)])
    return [np.concatenate(each, axis=-2) for each in zip(*bands, strict=True)]


@pytest.mark.parametrize("tissue", [False, True])
@pytest.mark.parametrize("map_size", [(150, 110), (37, 27), (300, 220), (1, 1)])
@pytest.mark.parametrize("classes", [2, 5])
def test_the_map_is_that_of_the_engine(cupy: Any, classes: int, map_size: tuple[int, int], tissue: bool) -> None:
    laid = lay_plan(tissue)
    logits = np.random.default_rng(0).normal(0, 4, (len(laid.windows), classes, SIDE, SIDE)).astype(np.float32)
    probabilities, analysed = compose_on_cpu(laid, logits, map_size)
    total, seen, _ = compose(cupy, laid, logits, map_size, rows=64)
    if map_size != (1, 1):  # an only pixel that lies in no window takes that of the nearest, on the CPU
        np.testing.assert_array_equal(seen > 0, analysed)
    np.testing.assert_allclose(total / np.maximum(seen, 1), probabilities, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
def test_every_type_of_logits_is_read(cupy: Any, dtype: Any) -> None:
    laid = lay_plan(False)
    logits = np.random.default_rng(1).normal(0, 4, (len(laid.windows), 2, SIDE, SIDE)).astype(dtype)
    wanted, _ = compose_on_cpu(laid, logits, (60, 44))
    total, seen, _ = compose(cupy, laid, logits, (60, 44), rows=64)
    np.testing.assert_allclose(total / seen, wanted, atol=1e-5)


def test_bands_do_not_show(cupy: Any) -> None:
    laid = lay_plan(True)
    logits = np.random.default_rng(2).normal(0, 4, (len(laid.windows), 2, SIDE, SIDE)).astype(np.float32)
    whole, banded = (compose(cupy, laid, logits, (75, 55), rows) for rows in (55, 7))
    for one, other in zip(whole, banded, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_network_that_is_beyond_doubt_does_not_overflow(cupy: Any) -> None:
    laid = lay_plan(False)
    logits = np.full((len(laid.windows), 2, SIDE, SIDE), -3e38, np.float32)
    logits[:, 1] = 0
    total, seen, planes = compose(cupy, laid, logits, (30, 22), rows=64)
    np.testing.assert_array_equal(total[1] / seen, 1)
    assert (planes == np.uint8([[[1]], [[255]]])).all()


def test_the_finished_planes_are_those_of_the_map_file(cupy: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    seen = random.integers(0, 3, (40, 50)).astype(np.float32)
    total = random.random((3, 40, 50)).astype(np.float32) * seen
    planes = cupy.asnumpy(canvas.finish(Band(50, 40, 0, 0, cupy.asarray(total), cupy.asarray(seen))))
    with MapFile(tmp_path / "map", 3, 40, 50) as file:
        writer = MapWriter(file, np.ones((1, 1), np.bool_))
        writer.place(Tile(0, 0, total / np.maximum(seen, 1), seen > 0))
        writer.finish()
        for plane in range(3):
            np.testing.assert_array_equal(planes[plane], file.read(plane, 0, 40))


def arguments(cupy: Any, **changes: Any) -> tuple[Band, View, Any]:
    band = Band(20, 10, 0, 0, cupy.zeros((2, 10, 20), np.float32), cupy.zeros((10, 20), np.float32))
    starts = np.int32([0, 8])
    view = View(20, 16, 12, False, starts, starts, np.int32([[0, 1], [-1, 2]]))
    logits = changes.pop("logits", cupy.zeros((3, 2, 3, 3), np.float32))
    band_changes = {key: value for key, value in changes.items() if key in Band._fields and key not in View._fields}
    view_changes = {key.removeprefix("view_"): value for key, value in changes.items() if key not in band_changes}
    return band._replace(**band_changes), view._replace(**view_changes), logits


BAD = {
    "classes": (
        lambda c: {"logits": c.zeros((3, 4, 3, 3), np.float32)},
        r"logits must have the shape \[any, 2, any, any\]",
    ),
    "square": (lambda c: {"logits": c.zeros((3, 2, 3, 4), np.float32)}, r"logits must have the shape \[any, 2, 4, 4\]"),
    "dtype": (lambda c: {"logits": c.zeros((3, 2, 3, 3))}, "logits must be float32 or"),
    "seen": (lambda c: {"seen": c.zeros((10, 21), np.float32)}, r"seen must have the shape \[10, 20\]"),
    "left of the map": (lambda c: {"left": -1}, r"left must lie in 0\.\.20"),
    "no view": (lambda c: {"view_width": 0}, r"view's width must lie in 1"),
    "beside the map": (lambda c: {"left": 1}, r"total's columns must lie in 1\.\.19"),
    "below the map": (lambda c: {"top": 1}, r"total's rows must lie in 1\.\.9"),
    "starts": (lambda c: {"xs": np.int32([8, 0])}, "xs must rise"),
    "starts' dtype": (lambda c: {"ys": np.int64([0, 8])}, "ys must be a NumPy array, int32"),
    "slots' shape": (
        lambda c: {"slots": np.int32([[0, 1]])},
        r"slots must be a NumPy array, int32, of the shape \[2, 2\]",
    ),
    "slots": (lambda c: {"slots": np.int32([[0, 1], [2, 3]])}, r"slots must lie in -1\.\.2"),
    "window": (lambda c: {"window": 0}, "window must lie in 1"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_wrong_arguments_are_named_before_anything_is_launched(
    host: Any, changes: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canvas, "load", lambda *_, **__: pytest.fail("a kernel was loaded"))
    with pytest.raises(ValueError, match=message):
        canvas.add_view(*arguments(host, **changes(host)))
