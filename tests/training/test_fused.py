"""The losses through the CUDA kernels against the same losses in torch: on the CPU by g++, and on a CUDA device."""

import sys
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from glassrt.engine.errors import TrainingError
from glassrt.training import fused, losses
from glassrt.training.metrics import IGNORE

TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}
LAYOUTS = {
    "contiguous": lambda logits: logits.contiguous(),
    "channels last": lambda logits: logits.contiguous(memory_format=torch.channels_last),
    "every second row": lambda logits: logits.repeat_interleave(2, 2)[:, :, ::2],
}


@pytest.fixture(params=["host", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the tensors lie; on the CPU the kernels are those that g++ built."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        return "cuda"
    request.getfixturevalue("host")
    monkeypatch.setattr(fused, "on_stream", lambda tensor: nullcontext())
    return "cpu"


def example(device: str, dtype: torch.dtype, layout: str = "contiguous") -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 2, 10, 14, generator=random)
    labels = torch.randint(2, (3, 10, 14), generator=random)
    labels[torch.rand(labels.shape, generator=random) < 0.1] = IGNORE
    return LAYOUTS[layout](logits.to(device, dtype)).requires_grad_(), labels.to(device)


def check(fast: Tensor, plain: Tensor, logits: Tensor, wide: Tensor) -> None:
    """Loss and gradient through a head of its own, as a network's would be."""
    assert fast.dtype == torch.float32
    assert fast.item() == pytest.approx(plain.item(), rel=1e-5)
    (slope,), (wanted,) = torch.autograd.grad(0.4 * fast, logits), torch.autograd.grad(0.4 * plain, wide)
    assert slope.dtype == logits.dtype
    error = (slope.double() - wanted).norm() / wanted.norm()
    assert error.item() <= TOLERANCE[logits.dtype]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("weight", losses.WEIGHTS)
def test_oeem_is_the_plain_loss(device: str, dtype: torch.dtype, layout: str, weight: losses.Weight) -> None:
    logits, labels = example(device, dtype, layout)
    wide = logits.detach().double().requires_grad_()
    fast = fused.Oeem.apply(logits, labels, weight, 0.61, False)
    check(fast, losses.plain_oeem(wide, labels, weight, 0.61, False), logits, wide)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_beta_kl_is_the_plain_loss(device: str, dtype: torch.dtype, layout: str) -> None:
    logits, _ = example(device, dtype, layout)
    truth = torch.eye(2, device=device)[torch.tensor([0, 1, 1], device=device)]
    wide = logits.detach().double().requires_grad_()
    fast = fused.BetaKL.apply(logits, truth, (0.0, 0.61), 30.0)
    check(fast, losses.plain_beta_kl(wide, truth.double(), (0.0, 0.61), 30.0), logits, wide)


def test_the_loss_can_be_worked_on_like_any_other(device: str) -> None:
    logits, labels = example(device, torch.float32)
    loss = fused.Oeem.apply(logits, labels, "l_norm", 1.0, False)
    (wanted,) = torch.autograd.grad(loss, logits, retain_graph=True)
    loss += 1
    loss /= 2
    loss.backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, wanted / 2)


def test_what_does_not_fit_is_named() -> None:
    logits, labels = example("cpu", torch.float32)
    with pytest.raises(ValueError, match="labels lie on meta, logits on cpu"):
        losses.oeem(logits, labels.to("meta"))
    with pytest.raises(ValueError, match="truth lies on meta, logits on cpu"):
        losses.beta_kl(logits, torch.zeros(3, 2, device="meta"))
    with pytest.raises(ValueError, match=r"beta \(0\.0, 2\.0\) lies outside 0\.\.1"):
        losses.beta_kl(logits, torch.zeros(3, 2), (0.0, 2.0))


def test_no_gradient_of_a_gradient_is_promised(device: str) -> None:
    logits, labels = example(device, torch.float32)
    (slope,) = torch.autograd.grad(fused.Oeem.apply(logits, labels, "l_norm", 1.0, False), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        slope.sum().backward()


@pytest.mark.gpu
def test_the_losses_take_the_kernels_on_cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    logits, labels = example("cuda", torch.float32)
    assert type(losses.oeem(logits, labels).grad_fn).__name__ == "OeemBackward"
    truth = torch.eye(2, device="cuda")[torch.tensor([0, 1, 1], device="cuda")]
    assert type(losses.beta_kl(logits, truth).grad_fn).__name__ == "BetaKLBackward"


def test_training_on_cuda_without_cupy_is_refused_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    fused.require_kernels(torch.device("cpu"))
    with pytest.raises(TrainingError, match=r"the losses on cuda:0 are CUDA kernels, and CuPy cannot be loaded"):
        fused.require_kernels(torch.device("cuda:0"))


def stated(q: list[float], p: list[float], beta: tuple[float, float]) -> Any:
    """The divergence word for word, for probabilities above 0."""
    return -sum(pi / bi * ((qi / pi) ** bi - 1) for qi, pi, bi in zip(q, p, beta, strict=True))


@pytest.mark.parametrize("beta", [(0.3, 0.61), (0.5, 1.0)])
def test_plain_beta_kl_is_its_equation(beta: tuple[float, float]) -> None:
    logits = torch.tensor([[[[1.0, 3.0]], [[4.0, -2.0]]]], dtype=torch.float64)
    malign = torch.tensor([2.0, 4.0], dtype=torch.float64).softmax(0)[1].item()  # the mean, and the larger one
    loss = losses.beta_kl(logits, torch.tensor([[0.3, 0.7]], dtype=torch.float64), beta, eta=50)
    assert loss.item() == pytest.approx(stated([1 - malign, malign], [0.3, 0.7], beta))


def test_beta_kl_tends_to_kullback_leibler() -> None:
    logits = torch.randn(2, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    truth = torch.tensor([[0.2, 0.8], [1.0, 0.0]], dtype=torch.float64)
    limit, near = (losses.beta_kl(logits, truth, (beta, beta), 20).item() for beta in (0.0, 1e-7))
    log_q = losses.pool_slides(logits, 20).log_softmax(1)
    wanted = torch.nn.functional.kl_div(log_q, truth, reduction="batchmean").item()
    assert limit == pytest.approx(wanted)
    assert near == pytest.approx(limit, rel=1e-5)


@pytest.mark.parametrize("beta", [(0.0, 0.61), (0.0, 1.0)])
def test_the_gradient_of_plain_beta_kl_is_that_of_its_value(beta: tuple[float, float]) -> None:
    logits = torch.randn(2, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    truth = torch.tensor([[1.0, 0.0], [0.4, 0.6]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: losses.beta_kl(x, truth, beta, 40), logits)
