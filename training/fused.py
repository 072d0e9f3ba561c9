"""The losses as CUDA kernels: autograd functions over `glassrt.cuda_kernels`, on torch's stream and memory.

Logits and labels that are not contiguous are copied; nothing else is, and nothing waits for the device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.dlpack import from_dlpack

from glassrt.cuda_kernels import beta_kl as beta_kl_kernels
from glassrt.cuda_kernels import oeem as oeem_kernels
from glassrt.cuda_kernels.compile import Array, CudaUnavailable, import_cupy, load
from glassrt.engine.errors import TrainingError
from glassrt.training.metrics import IGNORE


def require_kernels(device: torch.device) -> None:
    """Raise TrainingError if losses on this device need kernels that cannot be had; to be asked before training."""
    if device.type == "cuda":
        try:
            with import_cupy().cuda.Device(device.index or 0):
                load("oeem", LOGIT="float")
        except (CudaUnavailable, RuntimeError) as error:
            raise TrainingError(f"the losses on {device} are CUDA kernels, and {error}") from error


@contextmanager
def on_stream(tensor: Tensor) -> Iterator[None]:
    """CuPy on the tensor's device and torch's current stream there."""
    cuda = import_cupy().cuda
    with cuda.Device(tensor.device.index), cuda.Stream.from_external(torch.cuda.current_stream(tensor.device)):
        yield


def as_array(tensor: Tensor) -> Array:
    """The tensor's own memory as a CuPy array."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return import_cupy().from_dlpack(tensor.view(torch.int16)).view(ml_dtypes.bfloat16)
    return import_cupy().from_dlpack(tensor)


class Oeem(torch.autograd.Function):
    """`losses.oeem` and its gradient, one pass over the pixels each. A label outside the classes gives NaN."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weight: str, beta: float, ignored_as_easy: bool) -> Tensor:
        logits, labels = logits.contiguous(), labels.contiguous()
        with on_stream(logits):
            arrays = as_array(logits), as_array(labels)
            ctx.weighting = oeem_kernels.forward(*arrays, weight, beta, ignored_as_easy, IGNORE, labels_checked=True)
            loss = from_dlpack(ctx.weighting.totals)[0].clone()  # torch's own memory, and no view
        ctx.save_for_backward(logits, labels)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        with on_stream(logits):
            arrays = as_array(logits), as_array(labels), ctx.weighting, as_array(upstream.reshape(1).contiguous())
            oeem_kernels.backward(*arrays, as_array(gradient))
        return gradient, None, None, None, None


class BetaKL(torch.autograd.Function):
    """`losses.beta_kl` and its gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, truth: Tensor, beta: tuple[float, float], eta: float) -> Tensor:
        logits = logits.contiguous()
        with on_stream(logits):
            ctx.pooling = beta_kl_kernels.forward(as_array(logits), as_array(truth.float().contiguous()), beta, eta)
            loss = from_dlpack(ctx.pooling.loss)[0].clone()
        ctx.save_for_backward(logits)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (logits,) = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        with on_stream(logits):
            arrays = as_array(logits), ctx.pooling, as_array(upstream.reshape(1).contiguous())
            beta_kl_kernels.backward(*arrays, as_array(gradient))
        return gradient, None, None, None
