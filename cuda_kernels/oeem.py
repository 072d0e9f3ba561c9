"""The OEEM loss and its gradient on a CUDA device (Li et al., MICCAI 2022, Eqs. 3 to 8)."""

from typing import NamedTuple

import numpy as np

from glassrt.cuda_kernels.arguments import check_array, check_count
from glassrt.cuda_kernels.compile import LOGIT_TYPES, Array, import_cupy, load, parts_of

THREADS = 256
SHARE_FLOATS = 7  # of 4 bytes each, as `Share` in oeem.cu
CONFIDENCES = {"l_norm": 0, "lc_mix": 1, "c_max": 1, "c_diff": 2}
TEMPERED = ("l_norm", "lc_mix")


class Weighting(NamedTuple):
    """How the pixels of one batch were weighted: what the gradient needs beside logits and labels.

    `scales` is float32 `[N, 2]`, `totals` float32 `[2]`: the loss and 1 / pixels that count.
    """

    confidence: int
    beta: float
    ignore: int
    scales: Array
    totals: Array


def forward(
    logits: Array,
    labels: Array,
    weight: str = "l_norm",
    beta: float = 1.0,
    ignored_as_easy: bool = False,
    ignore: int = 255,
    labels_checked: bool = False,
) -> Weighting:
    """The mean loss, `totals[0]`, of float32, float16 or bfloat16 logits `[N, C, H, W]` and int64 labels `[N, H, W]`.

    Arithmetic is float32; nothing waits for the device unless labels are to be checked. With `labels_checked`, a label
    outside the classes makes the loss NaN. Raises ValueError, which names the argument, or CudaUnavailable.
    """
    check(logits, labels, weight, beta, ignore)
    cupy = import_cupy()
    images, classes, height, width = logits.shape
    length = height * width
    if not labels_checked:
        outside = ((labels < 0) | (labels >= classes)) & (labels != ignore)
        if bool(outside.any()):
            raise ValueError(f"labels must lie in 0..{classes - 1} or be {ignore}")
    confidence, beta = CONFIDENCES[weight], beta if weight in TEMPERED else 0.0
    parts = parts_of(length, images, THREADS)
    shares = cupy.empty((images, parts, SHARE_FLOATS), np.float32)
    weighting = Weighting(confidence, beta, ignore, cupy.empty((images, 2), np.float32), cupy.empty(2, np.float32))
    kernel = load("oeem", LOGIT=LOGIT_TYPES[logits.dtype.name])
    count = (np.int32(classes), np.int32(length), np.int32(confidence), np.float32(beta), np.int32(ignore))
    if images and length:
        arguments = (logits, labels, *count, np.int32(ignored_as_easy), shares)
        kernel("oeem_forward")((parts, images), (THREADS,), arguments)
    counts = (np.int32(images), np.int32(parts if length else 0))
    kernel("oeem_finish")((1,), (THREADS,), (shares, *counts, weighting.scales, weighting.totals))
    return weighting


def backward(logits: Array, labels: Array, weighting: Weighting, upstream: Array, gradient: Array) -> None:
    """Write the loss's gradient by the logits times `upstream`, float32 `[1]`, into `gradient`, an array like them.

    The weight counts as a constant. Raises ValueError, which names the argument, or CudaUnavailable.
    """
    check(logits, labels, "l_norm", weighting.beta, weighting.ignore)
    check_array("scales", weighting.scales, (len(logits), 2), ("float32",))
    check_array("totals", weighting.totals, (2,), ("float32",))
    check_array("upstream", upstream, (1,), ("float32",))
    check_array("gradient", gradient, logits.shape, (logits.dtype.name,))
    images, classes, height, width = logits.shape
    length = height * width
    if images and length:
        kernel = load("oeem", LOGIT=LOGIT_TYPES[logits.dtype.name])
        count = (np.int32(classes), np.int32(length), np.int32(weighting.confidence), np.float32(weighting.beta))
        arguments = (logits, labels, *count, np.int32(weighting.ignore), weighting.scales, weighting.totals)
        grid = (parts_of(length, images, THREADS), images)
        kernel("oeem_backward")(grid, (THREADS,), (*arguments, upstream, gradient))


def check(logits: Array, labels: Array, weight: str, beta: float, ignore: int) -> None:
    """Raise ValueError, which names the argument that is wrong."""
    check_array("logits", logits, (None,) * 4, tuple(LOGIT_TYPES))
    images, classes, height, width = logits.shape
    check_array("labels", labels, (images, height, width), ("int64",))
    check_count("logits' images", images, 0, 65_535)
    check_count("logits' classes", classes, 1, 65_535)
    check_count("logits' pixels", height * width, 0, 2**31 - 8)
    if weight not in CONFIDENCES:
        raise ValueError(f"weight {weight!r} is not known; choose one of {', '.join(CONFIDENCES)}")
    if not 0 <= beta <= 1:
        raise ValueError(f"beta {beta} lies outside 0..1")
    check_count("ignore", ignore, -(2**31) + 1, 2**31 - 1)
