"""The beta-KL kernels against the float64 statement of the same loss, on the CPU and on a CUDA device."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from glassrt.cuda_kernels import beta_kl
from glassrt.training.losses import plain_beta_kl, pool_slides

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ROUNDING = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 8e-3}  # of a gradient stored in that type
BETAS = [(0.0, 0.0), (0.0, 0.61), (0.0, 1.0), (1.0, 0.5)]
SIZES = {"one pixel": (1, 1), "odd sizes": (7, 9), "fours": (8, 12), "several blocks": (40, 77)}


def random_case(size: tuple[int, int], images: int = 3, seed: int = 0) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Logits and the truth of slides: benign, malign, then something in between."""
    random = np.random.default_rng(seed)
    truth = np.float32([[1, 0], [0, 1], [0.25, 0.75]])[np.arange(images) % 3]
    return random.normal(0, 2, (images, 2, *size)), truth


def special_case(name: str) -> NDArray[Any]:
    logits, _ = random_case((9, 11), seed=2)
    if name == "all alike":
        logits[:] = 1.5
    elif name == "ties at the percentile":
        logits = np.round(logits)
    elif name == "both zeros":
        logits[:, 1] = np.where(logits[:, 1] > 0, 0.0, -0.0)
    elif name == "all negative":
        logits -= 50
    elif name == "huge":
        logits *= 1e4
    elif name == "sure and right":
        logits[:, 0] -= 300
    return logits


def run_kernels(
    cupy: Any, logits: NDArray[Any], truth: NDArray[np.float32], *settings: Any
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """The loss, its gradient and the slide logits as the kernels have them."""
    on_device = cupy.asarray(logits)
    pooling = beta_kl.forward(on_device, cupy.asarray(truth), *settings)
    gradient = cupy.empty_like(on_device)
    beta_kl.backward(on_device, pooling, cupy.asarray(np.float32([1])), gradient)
    loss, pooled = cupy.asnumpy(pooling.loss), cupy.asnumpy(pooling.pooled)
    return float(loss[0]), cupy.asnumpy(gradient).astype(np.float64), pooled.astype(np.float64)


def check(cupy: Any, logits: NDArray[Any], truth: NDArray[np.float32], beta: Any, eta: float) -> None:
    loss, gradient, pooled = run_kernels(cupy, logits, truth, beta, eta)
    wide = torch.from_numpy(logits.astype(np.float64)).requires_grad_()
    wanted = plain_beta_kl(wide, torch.from_numpy(truth.astype(np.float64)), beta, eta)
    wanted.backward()  # type: ignore[no-untyped-call]
    assert wide.grad is not None
    np.testing.assert_allclose(pooled, pool_slides(wide, eta).detach().numpy(), rtol=1e-5, atol=1e-5)
    assert loss == pytest.approx(wanted.item(), rel=1e-5, abs=1e-5)
    scale = max(1e-30, wide.grad.abs().max().item())
    np.testing.assert_allclose(gradient / scale, wide.grad.numpy() / scale, atol=ROUNDING[logits.dtype.name])


@pytest.mark.parametrize("eta", [0.1, 12.5, 50, 100])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
def test_loss_and_gradient_are_the_statement_s(cupy: Any, dtype: Any, size: tuple[int, int], eta: float) -> None:
    logits, truth = random_case(size)
    check(cupy, logits.astype(dtype), truth, (0.0, 0.61), eta)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("images", [1, 3, 11])
def test_every_beta_is_the_statement_s(cupy: Any, images: int, beta: tuple[float, float]) -> None:
    logits, truth = random_case((6, 10), images)
    check(cupy, logits.astype(np.float32), truth, beta, 30)


@pytest.mark.parametrize("eta", [1, 40, 100])
@pytest.mark.parametrize(
    "name", ["all alike", "ties at the percentile", "both zeros", "all negative", "huge", "sure and right"]
)
def test_special_slides_are_the_statement_s(cupy: Any, name: str, eta: float) -> None:
    check(cupy, special_case(name).astype(np.float32), random_case((1, 1))[1], (0.0, 1.0), eta)


@pytest.mark.parametrize("parts", [1, 2, 40])
def test_any_number_of_blocks_gives_the_same(cupy: Any, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few blocks go round several times; more than a warp's width of partial sums are added in turns."""
    monkeypatch.setattr(beta_kl, "parts_of", lambda *_: parts)
    logits, truth = random_case((60, 70), images=2)
    check(cupy, logits.astype(np.float32), truth, (0.0, 1.0), 20)


@pytest.mark.parametrize("count", [1, 2, 57, 98, 99])
def test_the_largest_pixels_are_found_exactly(cupy: Any, count: int) -> None:
    """Small whole numbers have exact sums, so the mean tells whether exactly the right pixels were taken."""
    logits = np.random.default_rng(count).integers(-40, 40, (2, 2, 9, 11)).astype(np.float32)
    _, _, pooled = run_kernels(cupy, logits, random_case((1, 1), 2)[1], (0.0, 1.0), 100 * count / 99)
    largest = np.sort(logits[:, 1].reshape(2, -1), axis=1)[:, -count:]
    np.testing.assert_array_equal(pooled[:, 1], (largest.sum(1) / count).astype(np.float32))


def test_pixels_that_tie_share_the_gradient(cupy: Any) -> None:
    logits = np.float32([[[[0, 0, 0, 0]], [[5, 2, 2, 1]]]])
    _, gradient, _ = run_kernels(cupy, logits, np.float32([[0, 1]]), (0.0, 0.0), 50)
    first, second, third, last = gradient[0, 1, 0]
    assert second == third == pytest.approx(first / 2)
    assert last == 0


def test_a_logit_of_minus_infinity_is_the_smallest(cupy: Any) -> None:
    logits, truth = random_case((5, 5))
    logits[:, 1, 0, 0] = -np.inf
    check(cupy, logits.astype(np.float32), truth, (0.0, 0.61), 40)


def test_a_logit_that_is_not_a_number_makes_the_loss_so(cupy: Any) -> None:
    logits, truth = random_case((5, 5))
    logits[1, 1, 2, 2] = np.nan
    assert np.isnan(run_kernels(cupy, logits.astype(np.float32), truth)[0])


LOGITS, TRUTH = np.zeros((2, 2, 4, 5), np.float32), np.float32([[1, 0], [0, 1]])
BAD = {
    "classes": (lambda c: (c.asarray(np.zeros((2, 3, 4, 5), np.float32)), c.asarray(TRUTH)), "logits must have the"),
    "dtype": (lambda c: (c.asarray(LOGITS.astype(np.float64)), c.asarray(TRUTH)), "logits must be float32 or"),
    "truth": (lambda c: (c.asarray(LOGITS), c.asarray(TRUTH[:1])), r"truth must have the shape \[2, 2\]"),
    "truth on the host": (lambda c: (c.asarray(LOGITS), TRUTH), "truth must be a CuPy array"),
    "no pixels": (lambda c: (c.asarray(LOGITS[:, :, :0]), c.asarray(TRUTH)), "logits' pixels must lie in 1"),
    "no slides": (lambda c: (c.asarray(LOGITS[:0]), c.asarray(TRUTH[:0])), "logits' images must lie in 1"),
    "eta of 0": (lambda c: (c.asarray(LOGITS), c.asarray(TRUTH), (0, 1), 0), "eta must lie above 0"),
    "eta above 100": (lambda c: (c.asarray(LOGITS), c.asarray(TRUTH), (0, 1), 100.5), "eta must lie above 0"),
    "beta": (lambda c: (c.asarray(LOGITS), c.asarray(TRUTH), (0, 2)), r"beta must be two numbers in 0\.\.1"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_wrong_arguments_are_named_before_anything_is_launched(
    host: Any, arguments: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beta_kl, "load", lambda *_, **__: pytest.fail("a kernel was loaded"))
    with pytest.raises(ValueError, match=message):
        beta_kl.forward(*arguments(host))
