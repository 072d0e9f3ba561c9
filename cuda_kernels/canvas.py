"""Window logits -> a band of the map, on a CUDA device: the multi-scale test of OEEM section 2.3."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassrt.cuda_kernels.arguments import check_array, check_count
from glassrt.cuda_kernels.compile import LOGIT_TYPES, Array, import_cupy, load

THREADS = 256
MOST_CLASSES = 64  # a thread keeps two values of each


class View(NamedTuple):
    """The windows of one view: the grid scaled to width x height, mirrored or not.

    Host arrays, int32: `xs` and `ys` are the rising first pixels of windows, `slots` `[len(ys), len(xs)]` the number of
    each window's logits, -1 where there are none.
    """

    width: int
    height: int
    window: int
    mirrored: bool
    xs: NDArray[np.int32]
    ys: NDArray[np.int32]
    slots: NDArray[np.int32]


class Band(NamedTuple):
    """A part of a map of width x height, whose first pixel is (left, top).

    `total` float32 `[C, h, w]` sums probabilities over views, `seen` float32 `[h, w]` counts them; both begin as 0.
    """

    width: int
    height: int
    left: int
    top: int
    total: Array
    seen: Array


def add_view(band: Band, view: View, logits: Array) -> None:
    """Add one view's probabilities to the band, from float32, float16 or bfloat16 logits `[slots, C, s, s]`.

    Logits are upsampled to the window, averaged over the windows that cover a pixel, resized to the map and put
    through softmax, all bilinear with half-pixel centres. Raises ValueError, which names the argument, or
    CudaUnavailable.
    """
    check_band(band)
    classes, height, width = band.total.shape
    check_array("logits", logits, (None, classes, None, None), tuple(LOGIT_TYPES))
    side = logits.shape[-1]
    check_array("logits", logits, (None, classes, side, side), tuple(LOGIT_TYPES))
    check_view(view, len(logits))
    cupy = import_cupy()
    geometry = (len(view.xs), len(view.ys), view.window, view.mirrored, view.width, view.height)
    place = (band.width, band.height, band.left, band.top, width, height)
    windows = (cupy.asarray(np.ascontiguousarray(each)) for each in (view.slots, view.xs, view.ys))
    arguments = (logits, np.int32(side), *windows, *map(np.int32, (*geometry, *place)))
    kernel = load("canvas", LOGIT=LOGIT_TYPES[logits.dtype.name], CLASSES=classes)
    grid = (-(-height * width // THREADS),)
    kernel("canvas_add")(grid, (THREADS,), (*arguments, band.total, band.seen))


def finish(band: Band) -> Array:
    """Bytes `[C, h, w]`: plane 0 the class, or 255 where no window was; plane k round(255 p) of class k.

    Raises ValueError, which names the argument, or CudaUnavailable.
    """
    check_band(band)
    classes, height, width = band.total.shape
    planes = import_cupy().empty(band.total.shape, np.uint8)
    kernel = load("canvas", LOGIT="float", CLASSES=classes)  # any type of logits: it reads none
    arguments = (band.total, band.seen, np.int64(height * width), planes)
    kernel("canvas_finish")((-(-height * width // THREADS),), (THREADS,), arguments)
    return planes


def check_band(band: Band) -> None:
    """Raise ValueError unless the band's arrays fit together and lie within the map."""
    check_array("total", band.total, (None, None, None), ("float32",))
    classes, height, width = band.total.shape
    check_array("seen", band.seen, (height, width), ("float32",))
    check_count("total's classes", classes, 1, MOST_CLASSES)
    check_count("left", band.left, 0, band.width)
    check_count("top", band.top, 0, band.height)
    check_count("total's rows", height, 1, band.height - band.top)
    check_count("total's columns", width, 1, band.width - band.left)


def check_view(view: View, held: int) -> None:
    """Raise ValueError unless the view's windows are laid out as its docstring says, and their logits are there."""
    shapes = {"xs": (len(view.xs),), "ys": (len(view.ys),), "slots": (len(view.ys), len(view.xs))}
    for name, shape in shapes.items():
        value = getattr(view, name)
        if not isinstance(value, np.ndarray) or value.dtype != np.int32 or value.shape != shape:
            raise ValueError(f"{name} must be a NumPy array, int32, of the shape {list(shape)}")
    for name in ("xs", "ys"):
        if (np.diff(getattr(view, name)) <= 0).any():
            raise ValueError(f"{name} must rise")
    if view.slots.size and not -1 <= view.slots.min() <= view.slots.max() < held:
        raise ValueError(f"slots must lie in -1..{held - 1}: there are logits of {held} windows")
    check_count("window", view.window, 1, 32_768)
    check_count("view's width", view.width, 1, 2**31 - 1)
    check_count("view's height", view.height, 1, 2**31 - 1)
