"""The window kernel against a plain float64 statement, to the bit, on the CPU and on a CUDA device."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from plain_statement import resize

from glassrt.cuda_kernels import windows
from glassrt.cuda_kernels.windows import Frame
from glassrt.engine.geometry.plan import InputSpec, plan

SCALES = (0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3)


def picture(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def stated_window(pixels: NDArray[np.uint8], place: NDArray[np.int32], window: int) -> NDArray[np.uint8]:
    """The whole image scaled, reflected about its border pixels, cut and mirrored."""
    x, y, width, height, mirrored = place.tolist()
    scaled = np.rint(resize(resize(pixels, 1, width), 0, height)).astype(np.uint8)
    rows, columns = (
        np.pad(np.arange(length), (max(0, -start), max(0, start + window - length)), mode="reflect")[
            max(0, start) : max(0, start) + window
        ]
        for start, length in ((y, height), (x, width))
    )
    cut = scaled[rows][:, columns]
    return cut[:, ::-1] if mirrored else cut


def lay_places(size: tuple[int, int], window: int) -> NDArray[np.int32]:
    """The windows of the multi-scale test, at most 60 of them."""
    laid = plan((size[1], size[0]), SCALES, True, (InputSpec("image", window),), max(1, window * 4 // 5))
    views = [laid.views[view] for view in laid.windows[:, 0]]
    rows = [(x, y, v.width, v.height, v.flip) for v, (_, x, y) in zip(views, laid.windows.tolist(), strict=True)]
    return np.array(rows, np.int32)[:: max(1, len(rows) // 60)]


@pytest.mark.parametrize("window", [32, 30, 33, 1])
@pytest.mark.parametrize("size", [(40, 70), (33, 32), (20, 50), (9, 5), (1, 1), (1, 60)])
def test_windows_are_the_statement_s_to_the_bit(cupy: Any, size: tuple[int, int], window: int) -> None:
    pixels, places = picture(*size), lay_places(size, window)
    made = windows.cut(cupy.asarray(pixels), Frame(0, 0, size[1], size[0]), places, window)
    wanted = np.stack([stated_window(pixels, place, window) for place in places])
    np.testing.assert_array_equal(cupy.asnumpy(made), wanted)


def test_a_region_that_begins_anywhere_gives_the_same_windows(cupy: Any) -> None:
    pixels = picture(90, 120)
    places = np.int32([[100, 70, 180, 135, 0], [100, 70, 180, 135, 1], [30, 40, 120, 90, 1]])
    whole = windows.cut(cupy.asarray(pixels), Frame(0, 0, 120, 90), places, 32)
    region = np.ascontiguousarray(pixels[39:73, 29:90])
    part = windows.cut(cupy.asarray(region), Frame(29, 39, 120, 90), places, 32)
    np.testing.assert_array_equal(cupy.asnumpy(part), cupy.asnumpy(whole))


def test_no_windows_are_no_windows(cupy: Any) -> None:
    made = windows.cut(cupy.asarray(picture(8, 8)), Frame(0, 0, 8, 8), np.empty((0, 5), np.int32), 4)
    assert made.shape == (0, 4, 4, 3)


PLACE = np.int32([[0, 0, 8, 8, 0]])
BAD = {
    "dtype": (lambda c: (c.asarray(np.zeros((8, 8, 3))), Frame(0, 0, 8, 8), PLACE, 4), "region must be uint8"),
    "shape": (
        lambda c: (c.asarray(np.zeros((8, 8), np.uint8)), Frame(0, 0, 8, 8), PLACE, 4),
        "region must have the shape",
    ),
    "window": (lambda c: (c.asarray(picture(8, 8)), Frame(0, 0, 8, 8), PLACE, 0), "window must lie in 1"),
    "places": (lambda c: (c.asarray(picture(8, 8)), Frame(0, 0, 8, 8), [[0] * 5], 4), "places must be a NumPy array"),
    "empty grid": (
        lambda c: (c.asarray(picture(8, 8)), Frame(0, 0, 8, 8), PLACE * 0, 4),
        "a scaled grid has no pixels",
    ),
    "outside x": (
        lambda c: (c.asarray(picture(8, 8)), Frame(1, 0, 9, 8), np.int32([[0, 0, 9, 8, 0]]), 4),
        r"places need pixels 0\.\.4 of the grid's x axis, the region holds 1\.\.8",
    ),
    "outside y": (
        lambda c: (c.asarray(picture(8, 8)), Frame(0, 0, 8, 12), np.int32([[0, 6, 8, 12, 0]]), 4),
        r"places need pixels 6\.\.10 of the grid's y axis, the region holds 0\.\.7",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_wrong_arguments_are_named_before_anything_is_launched(
    host: Any, arguments: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "load", lambda *_, **__: pytest.fail("a kernel was loaded"))
    with pytest.raises(ValueError, match=message):
        windows.cut(*arguments(host))
