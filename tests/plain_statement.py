"""The multi-scale test of OEEM section 2.3, stated plainly: whole images, loops, float64."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def resize(values: NDArray[np.generic], axis: int, length: int) -> Floats:
    """Bilinear along one axis, half-pixel centres, clamped at the border."""
    size = values.shape[axis]
    position = np.clip((np.arange(length) + 0.5) * (size / length) - 0.5, 0, size - 1)
    lower = np.floor(position).astype(int)
    weight = (position - lower).reshape([-1 if each == axis else 1 for each in range(values.ndim)])
    low = values.take(lower, axis).astype(np.float64)
    return low + (values.take(np.minimum(lower + 1, size - 1), axis) - low) * weight


def starts(length: int, window: int, stride: int) -> list[int]:
    return [0] if length <= window else [*range(0, length - window, stride), length - window]


def softmax(logits: Floats) -> Floats:
    exponentials = np.exp(logits - logits.max(0))
    return exponentials / exponentials.sum(0)


def multi_scale_test(
    image: NDArray[np.uint8],
    network: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    scales: Sequence[float],
    flips: bool,
    window: int = 320,
    stride: int = 256,
) -> Floats:
    """Probabilities `[C, H, W]`; `network` maps one uint8 window `[H, W, 3]` to logits `[C, h, w]`."""
    height, width = image.shape[:2]
    views = []
    for scale in scales:
        scaled_height, scaled_width = int(np.floor(scale * height + 0.5)), int(np.floor(scale * width + 0.5))
        scaled = np.rint(resize(resize(image, 1, scaled_width), 0, scaled_height)).astype(np.uint8)
        for flip in (False, True) if flips else (False,):
            logits = slide_windows(scaled[:, ::-1] if flip else scaled, network, window, stride)
            probabilities = softmax(resize(resize(logits, 1, height), 2, width))
            views.append(probabilities[:, :, ::-1] if flip else probabilities)
    return np.mean(views, axis=0)


def slide_windows(
    image: NDArray[np.uint8], network: Callable[[NDArray[np.uint8]], NDArray[np.float32]], window: int, stride: int
) -> Floats:
    """Logits `[C, H, W]` averaged over the windows that cover each pixel."""
    height, width = image.shape[:2]
    padding = (0, max(0, window - height)), (0, max(0, window - width)), (0, 0)
    padded = np.pad(image, padding, mode="reflect")
    total: Floats | None = None
    count = np.zeros(padded.shape[:2])
    for y in starts(height, window, stride):
        for x in starts(width, window, stride):
            logits = network(padded[y : y + window, x : x + window])
            total = np.zeros((len(logits), *padded.shape[:2])) if total is None else total
            total[:, y : y + window, x : x + window] += resize(resize(logits, 1, window), 2, window)
            count[y : y + window, x : x + window] += 1
    assert total is not None
    return (total / count)[:, :height, :width]  # type: ignore[no-any-return]
