"""The beta-KL loss on slide labels and its gradient on a CUDA device.

Source: "Weakly Supervised Training of Pixel Resolution Segmentation Models on Whole Slide Images", section 3.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from glassrt.cuda_kernels.arguments import check_array, check_count
from glassrt.cuda_kernels.compile import LOGIT_TYPES, Array, import_cupy, load, parts_of

THREADS = 256
BINS, DIGITS = 2048, 3  # as in beta_kl.cu


class Pooling(NamedTuple):
    """A batch pooled to slides: what the gradient needs beside the logits.

    `loss` is float32 `[1]`, `pooled` float32 `[N, 2]` the slide logits, `slopes` `[N, 4]` of 4 bytes each.
    """

    loss: Array
    pooled: Array
    slopes: Array


def forward(logits: Array, truth: Array, beta: Sequence[float] = (0.0, 1.0), eta: float = 50.0) -> Pooling:
    """The mean loss over slides of float32, float16 or bfloat16 logits `[N, 2, H, W]` and `truth` `[N, 2]`.

    `truth` is float32: probabilities of benign and malign. `eta` is in percent: the malign logit of a slide is the
    mean of its k = max(1, round(eta / 100 x pixels)) largest, halves up; pixels that tie with the k-th share what is
    left. `beta` is that of the benign and the malign term, 0 for Kullback-Leibler. Nothing waits for the device.
    Raises ValueError, which names the argument, or CudaUnavailable.
    """
    check_logits(logits)
    images, _, height, width = logits.shape
    length = height * width
    check_count("logits' images", images, 1, 65_535)
    check_count("logits' pixels", length, 1, 2**31 - 8)
    check_array("truth", truth, (images, 2), ("float32",))
    if len(beta) != 2 or not all(0 <= each <= 1 for each in beta):
        raise ValueError(f"beta must be two numbers in 0..1, not {tuple(beta)}")
    pixels, largest = np.int32(length), np.int32(count_largest(length, eta))
    cupy = import_cupy()
    kernel = load("beta_kl", LOGIT=LOGIT_TYPES[logits.dtype.name])
    parts = parts_of(length, images, THREADS)
    choices = cupy.empty((DIGITS, images, 3), np.int32)
    histograms = cupy.zeros((DIGITS, images, BINS), np.int32)
    for digit in range(DIGITS):
        arguments = (logits, pixels, largest, np.int32(digit), choices, histograms)
        kernel("beta_kl_count")((parts, images), (THREADS,), arguments)
    sums = cupy.empty((images, parts, 2), np.float32)
    kernel("beta_kl_sum")((parts, images), (THREADS,), (logits, pixels, choices, histograms, sums))
    pooling = Pooling(*(cupy.empty(shape, np.float32) for shape in (1, (images, 2), (images, 4))))
    counts = (np.int32(images), np.int32(parts), pixels, largest, np.float32(beta[0]), np.float32(beta[1]))
    results = (pooling.pooled, pooling.slopes, pooling.loss)
    kernel("beta_kl_finish")((1,), (THREADS,), (sums, choices, truth, *counts, *results))
    return pooling


def backward(logits: Array, pooling: Pooling, upstream: Array, gradient: Array) -> None:
    """Write the loss's gradient by the logits times `upstream`, float32 `[1]`, into `gradient`, an array like them.

    Raises ValueError, which names the argument, or CudaUnavailable.
    """
    check_logits(logits)
    check_array("upstream", upstream, (1,), ("float32",))
    check_array("gradient", gradient, logits.shape, (logits.dtype.name,))
    images, _, height, width = logits.shape
    check_array("slopes", pooling.slopes, (images, 4), ("float32",))
    grid = (parts_of(height * width, images, THREADS), images)
    arguments = (logits, np.int32(height * width), pooling.slopes, upstream, gradient)
    load("beta_kl", LOGIT=LOGIT_TYPES[logits.dtype.name])("beta_kl_backward")(grid, (THREADS,), arguments)


def count_largest(length: int, eta: float) -> int:
    """How many of `length` pixels the top `eta` percent are: at least one, halves up. Raises ValueError."""
    if not 0 < eta <= 100:
        raise ValueError(f"eta must lie above 0 and up to 100 percent, not {eta}")
    return max(1, int(eta / 100 * length + 0.5))


def check_logits(logits: Array) -> None:
    """Raise ValueError unless the logits are those of two classes."""
    check_array("logits", logits, (None, 2, None, None), tuple(LOGIT_TYPES))
