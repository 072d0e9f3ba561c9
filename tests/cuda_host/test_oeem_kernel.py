"""The OEEM kernels against the float64 statement of the same loss, on the CPU and on a CUDA device."""

from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from glassrt.cuda_kernels import oeem
from glassrt.training.losses import plain_oeem
from glassrt.training.metrics import IGNORE

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ROUNDING = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 8e-3}  # of a gradient stored in that type
WEIGHTINGS = [("l_norm", 1.0), ("l_norm", 0.61), ("l_norm", 0.0), ("lc_mix", 1.0), ("c_max", 1.0), ("c_diff", 1.0)]
SHAPES = {
    "one pixel": (1, 2, 1, 1),
    "odd sizes": (3, 3, 7, 9),
    "a row": (2, 2, 1, 1025),
    "fours": (2, 2, 8, 12),
    "several blocks": (2, 2, 48, 50),
    "many classes": (1, 21, 6, 6),
    "one class": (1, 1, 4, 4),
}


def random_case(shape: tuple[int, ...], seed: int = 0) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Logits and labels of mixed images, a tenth ignored."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, shape[1], (shape[0], *shape[2:]))
    labels[random.random(labels.shape) < 0.1] = IGNORE
    return random.normal(0, 3, shape), labels


def special_case(name: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    logits, labels = random_case((3, 2, 9, 11), seed=1)
    if name == "all ignored":
        labels[:] = IGNORE
    elif name == "an image ignored":
        labels[1] = IGNORE
    elif name == "single class":
        labels[labels != IGNORE] = 1
    elif name == "single class beside mixed":
        labels[0][labels[0] != IGNORE] = 0
    elif name == "huge logits":  # every label's probability underflows in image 0
        logits[0] *= 1e3
        labels[0] = logits[0].argmin(0)
    elif name == "infinitely sure":
        logits[:, 0] = np.where(logits[:, 0] > 0, 3e4, -3e4)
        logits[:, 1] = 0
    return logits, labels


def run_kernels(
    cupy: Any, logits: NDArray[Any], labels: NDArray[np.int64], *settings: Any, upstream: float = 1.0
) -> tuple[float, NDArray[np.float64]]:
    """The loss and its gradient as the kernels have them."""
    on_device = cupy.asarray(logits), cupy.asarray(labels)
    weighting = oeem.forward(*on_device, *settings)
    gradient = cupy.empty_like(on_device[0])
    oeem.backward(*on_device, weighting, cupy.asarray(np.float32([upstream])), gradient)
    return float(cupy.asnumpy(weighting.totals)[0]), cupy.asnumpy(gradient).astype(np.float64)


def run_statement(
    logits: NDArray[Any], labels: NDArray[np.int64], weight: Any, beta: float, ignored_as_easy: bool
) -> tuple[float, NDArray[np.float64]]:
    """The same in float64."""
    wide = torch.from_numpy(logits.astype(np.float64)).requires_grad_()
    loss = plain_oeem(wide, torch.from_numpy(labels), weight, beta, ignored_as_easy)
    loss.backward()  # type: ignore[no-untyped-call]
    assert wide.grad is not None
    return loss.item(), wide.grad.numpy()


def check(cupy: Any, logits: NDArray[Any], labels: NDArray[np.int64], *settings: Any) -> None:
    loss, gradient = run_kernels(cupy, logits, labels, *settings)
    wanted_loss, wanted_gradient = run_statement(logits, labels, *settings)
    assert loss == pytest.approx(wanted_loss, rel=1e-5, abs=1e-6)
    scale = np.abs(wanted_gradient).max(initial=1e-30)
    np.testing.assert_allclose(gradient / scale, wanted_gradient / scale, atol=ROUNDING[logits.dtype.name])


@pytest.mark.parametrize(("weight", "beta"), WEIGHTINGS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
def test_loss_and_gradient_are_the_statement_s(
    cupy: Any, dtype: Any, shape: tuple[int, ...], weight: str, beta: float
) -> None:
    logits, labels = random_case(shape)
    check(cupy, logits.astype(dtype), labels, weight, beta, False)


@pytest.mark.parametrize("ignored_as_easy", [False, True])
@pytest.mark.parametrize(("weight", "beta"), WEIGHTINGS)
@pytest.mark.parametrize(
    "name",
    ["all ignored", "an image ignored", "single class", "single class beside mixed", "huge logits", "infinitely sure"],
)
def test_special_images_are_the_statement_s(
    cupy: Any, name: str, weight: str, beta: float, ignored_as_easy: bool
) -> None:
    logits, labels = special_case(name)
    check(cupy, logits.astype(np.float32), labels, weight, beta, ignored_as_easy)


@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (2, 2, 0, 5)])
def test_nothing_costs_nothing(cupy: Any, shape: tuple[int, ...]) -> None:
    logits, labels = np.zeros(shape, np.float32), np.zeros((shape[0], *shape[2:]), np.int64)
    loss, gradient = run_kernels(cupy, logits, labels)
    assert loss == 0
    assert gradient.shape == shape


def test_memory_that_begins_anywhere_is_read_as_it_is(cupy: Any) -> None:
    """A view whose first byte fits no wide load."""
    logits, labels = random_case((3, 2, 4, 4))
    narrow = logits.astype(np.float16)
    held = cupy.asarray(np.concatenate([np.float16([0]), narrow.ravel()]))
    shifted = held[1:].reshape(narrow.shape)
    weighting = oeem.forward(shifted, cupy.asarray(labels))
    wanted, wanted_gradient = run_statement(narrow, labels, "l_norm", 1.0, False)
    assert float(cupy.asnumpy(weighting.totals)[0]) == pytest.approx(wanted, rel=1e-5)
    for start in (shifted, cupy.asarray(narrow)):
        gradient = cupy.empty(narrow.size + 1, np.float16)[1:].reshape(narrow.shape)
        oeem.backward(start, cupy.asarray(labels), weighting, cupy.asarray(np.float32([1])), gradient)
        np.testing.assert_allclose(cupy.asnumpy(gradient), wanted_gradient, atol=1e-3 * np.abs(wanted_gradient).max())


def test_the_gradient_is_scaled_by_what_comes_from_above(cupy: Any) -> None:
    logits, labels = random_case((2, 2, 5, 5))
    _, once = run_kernels(cupy, logits.astype(np.float32), labels)
    _, thrice = run_kernels(cupy, logits.astype(np.float32), labels, upstream=3.0)
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-6)


def test_the_same_input_gives_the_same_bits(cupy: Any) -> None:
    logits, labels = random_case((2, 3, 40, 44))
    first, again = (run_kernels(cupy, logits.astype(np.float32), labels, "lc_mix") for _ in range(2))
    assert first[0] == again[0]
    np.testing.assert_array_equal(first[1], again[1])


@pytest.mark.parametrize("label", [2, -1, 2**32, 2**32 + 255])
def test_a_label_without_a_class_is_refused_or_makes_everything_nan(cupy: Any, label: int) -> None:
    logits, labels = random_case((2, 2, 5, 5))
    labels[1, 2, 3] = label
    on_device = cupy.asarray(logits.astype(np.float32)), cupy.asarray(labels)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.1 or be 255"):
        oeem.forward(*on_device)
    weighting = oeem.forward(*on_device, labels_checked=True)
    assert np.isnan(cupy.asnumpy(weighting.totals)[0])
    gradient = cupy.empty_like(on_device[0])
    oeem.backward(*on_device, weighting, cupy.asarray(np.float32([1])), gradient)
    assert np.isnan(cupy.asnumpy(gradient)[1]).any()


@pytest.mark.parametrize("parts", [1, 2, 40])
def test_any_number_of_blocks_gives_the_same(cupy: Any, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few blocks go round several times; more than a warp's width of partial sums are merged in turns."""
    monkeypatch.setattr(oeem, "parts_of", lambda *_: parts)
    logits, labels = random_case((2, 2, 60, 70), seed=4)
    logits[0] *= 40  # later pixels raise the sums' scale
    check(cupy, logits.astype(np.float32), labels, "l_norm", 1.0, False)


def test_more_images_than_warps_are_finished_in_turns(cupy: Any) -> None:
    logits, labels = random_case((19, 2, 5, 6), seed=5)
    check(cupy, logits.astype(np.float32), labels, "lc_mix", 0.61, False)


class Elsewhere:
    """An array on another device."""

    def __new__(cls, cupy: Any, array: NDArray[Any]) -> Any:
        return cupy.asarray(array).view(type("other", (cupy.ndarray,), {"device": SimpleNamespace(id=1)}))


LOGITS, LABELS = np.zeros((2, 3, 4, 5), np.float32), np.zeros((2, 4, 5), np.int64)
BAD = {
    "dtype": (lambda c: (c.asarray(LOGITS.astype(np.float64)), c.asarray(LABELS)), "logits must be float32 or"),
    "host array": (lambda c: (LOGITS, c.asarray(LABELS)), "logits must be a CuPy array, not numpy.ndarray"),
    "labels' dtype": (lambda c: (c.asarray(LOGITS), c.asarray(LABELS.astype(np.uint8))), "labels must be int64"),
    "rank": (lambda c: (c.asarray(LOGITS[0]), c.asarray(LABELS)), r"logits must have the shape \[any, any, any, any\]"),
    "labels' shape": (
        lambda c: (c.asarray(LOGITS), c.asarray(LABELS[:, 1:])),
        r"labels must have the shape \[2, 4, 5\]",
    ),
    "layout": (lambda c: (c.asarray(LOGITS).swapaxes(2, 3), c.asarray(LABELS)), "logits is not contiguous"),
    "device": (
        lambda c: (Elsewhere(c, LOGITS), c.asarray(LABELS)),
        "logits lies on device 1, not on the current one, 0",
    ),
    "weight": (lambda c: (c.asarray(LOGITS), c.asarray(LABELS), "linear"), "weight 'linear' is not known"),
    "beta": (lambda c: (c.asarray(LOGITS), c.asarray(LABELS), "l_norm", 1.5), r"beta 1\.5 lies outside 0\.\.1"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_wrong_arguments_are_named_before_anything_is_launched(
    host: Any, arguments: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oeem, "load", lambda *_, **__: pytest.fail("a kernel was loaded"))
    with pytest.raises(ValueError, match=message):
        oeem.forward(*arguments(host))
