"""The CUDA kernels: what the assembler made of them, the bytes they must move, and how fast they are on a device.

No speed without agreement: the losses are first held against their plain statements in float64, windows and canvas
against the engine's own.
"""

import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glassrt.cuda_kernels import canvas, compile, windows
from glassrt.cuda_kernels.compile import ARCHITECTURES, VARIANTS, CudaUnavailable
from glassrt.engine.errors import BackendUnavailable, GlassError
from glassrt.engine.geometry.views import window_starts
from glassrt.engine.maps.upsampling import softmax_beside_zero, upsampling_matrix
from glassrt.engine.slides.resampling import scale_exactly
from glassrt.training import losses
from glassrt.training.metrics import IGNORE

Call = Callable[[], Any]

CLASSES, SIDE, LOGIT_SIDE = 2, 320, 20
BATCH = 32  # images, to compare with torch
# As much as hides the launches and leaves any cache: half a gigabyte and more.
IMAGES, WINDOWS, REGION, MAP = 512, 2048, 4096, 8192
PIXELS = IMAGES * SIDE * SIDE
VALUE_BYTES = {"float32": 4, "bfloat16": 2}
LABEL_BYTES = 8
OEEM: dict[str, Any] = {"weight": "l_norm", "beta": 1.0, "ignored_as_easy": False}
BETA_KL: dict[str, Any] = {"beta": (0.0, 1.0), "eta": 50.0}
TB = 1e12


class Build(NamedTuple):
    """What the assembler reports of one kernel."""

    source: str
    kernel: str
    architecture: int
    registers: int
    shared_bytes: int
    spilled_bytes: int


def report_builds() -> Iterator[Build]:
    """Every kernel for every architecture; needs CuPy and no device. Raises BackendUnavailable."""
    for source, constants in VARIANTS.items():
        for architecture in ARCHITECTURES:
            with told_plainly():
                report = compile.build(source, architecture, **constants)
            for part in report.split("Compiling entry function ")[1:]:
                name = part.split("'")[1]
                registers = int(re.findall(r"Used (\d+) registers", part)[0])
                shared = sum(map(int, re.findall(r"(\d+) bytes smem", part)))
                spilled = sum(map(int, re.findall(r"(\d+) bytes spill", part)))
                yield Build(source, name, architecture, registers, shared, spilled)


def bytes_to_move() -> dict[str, int]:
    """The fewest bytes of each measured call: every input read once, every result written once."""
    moved = {}
    for name, size in VALUE_BYTES.items():
        logits = PIXELS * CLASSES * size
        moved[f"oeem forward, {name}"] = logits + PIXELS * LABEL_BYTES
        moved[f"oeem backward, {name}"] = 2 * logits + PIXELS * LABEL_BYTES
        moved[f"beta-KL forward, {name}"] = logits
        moved[f"beta-KL backward, {name}"] = logits * 3 // 2
    band = 4 * (CLASSES + 1) * MAP * MAP
    logits = 4 * CLASSES * LOGIT_SIDE**2 * len(lay_starts()) ** 2
    moved["windows"] = WINDOWS * SIDE * SIDE * 3 + REGION * REGION * 3
    moved["canvas, one view"] = 2 * band + logits
    moved["canvas, finish"] = band + CLASSES * MAP * MAP
    return moved


def lay_starts() -> NDArray[np.int32]:
    """Where windows begin along a side of the measured view, which is as large as the map."""
    return np.array(window_starts(MAP, SIDE, 256), np.int32)


class Disagreement(GlassError):
    """A kernel's result is not that of its statement, so its speed means nothing."""


@contextmanager
def told_plainly() -> Iterator[None]:
    """A missing device or CuPy in one line."""
    try:
        yield
    except CudaUnavailable as error:
        raise BackendUnavailable(str(error)) from error


def measure_kernels(repeats: int = 50) -> dict[str, Any]:
    """Microseconds and share of the copy bandwidth of each kernel, and OEEM beside eager and compiled torch.

    Raises BackendUnavailable without CUDA, Disagreement if a result is wrong.
    """
    with told_plainly():
        cupy = compile.import_cupy()
        compile.load("oeem", LOGIT="float")
    if not torch.cuda.is_available():
        raise BackendUnavailable("torch finds no CUDA device; bench kernels compares with torch on one")
    bandwidth = copy_bandwidth(repeats)
    moved, rows = bytes_to_move(), []
    with told_plainly():
        for name, call in lay_calls(cupy):
            taken, launching = time_called(call, repeats, calls=10)
            share = moved[name] / (taken * 1e-6) / bandwidth
            bound = "launches" if launching > 0.9 * taken else "device"
            rows.append(
                {"kernel": name, "us": taken, "launch_us": launching, "share_of_copy": share, "bound_by": bound}
            )
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cupy": cupy.__version__,
        "copy_tb_per_s": bandwidth / TB,
        "kernels": rows,
        "oeem_forward_backward_us": compare_oeem(repeats),
    }


def copy_bandwidth(repeats: int) -> float:
    """Bytes read plus written per second by a device-to-device copy of a gigabyte."""
    source = torch.randint(0, 256, (1 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    microseconds, _ = time_called(partial(target.copy_, source), repeats, calls=2)
    return 2 * source.numel() / (microseconds * 1e-6)


def time_called(call: Call, repeats: int, calls: int = 1) -> tuple[float, float]:
    """Median microseconds of a call between device events, and what the host took to launch it.

    `calls` follow each other at a time; where the two are alike, the device waited for the host.
    """
    for _ in range(3):
        call()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    on_device, on_host = [], []
    for _ in range(repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        events[0].record()
        for _ in range(calls):
            call()
        events[1].record()
        on_host.append(1e6 * (time.perf_counter() - began) / calls)
        torch.cuda.synchronize()
        on_device.append(1000 * events[0].elapsed_time(events[1]) / calls)
    return statistics.median(on_device), statistics.median(on_host)


def random_batch(dtype: str, images: int) -> tuple[Tensor, Tensor]:
    """Logits `[N, C, H, W]` and labels `[N, H, W]` on the device, a tenth of them unknown."""
    logits = 3 * torch.randn(images, CLASSES, SIDE, SIDE, device="cuda")
    labels = torch.randint(CLASSES, (images, SIDE, SIDE), device="cuda")
    labels[torch.rand(labels.shape, device="cuda") < 0.1] = IGNORE
    return logits.to(getattr(torch, dtype)).requires_grad_(), labels


def lay_calls(cupy: Any) -> Iterator[tuple[str, Call]]:
    """Each kernel by name, on random data, once its result was found right."""
    for dtype in VALUE_BYTES:
        yield from lay_losses(dtype)
    random = np.random.default_rng(0)
    check_windows(cupy, random)
    check_canvas(cupy, random)
    region = cupy.asarray(random.integers(0, 256, (REGION, REGION, 3), np.uint8))
    corners = random.integers(0, 2 * REGION - SIDE, (WINDOWS, 2))
    places = np.array([(x, y, 2 * REGION, 2 * REGION, index % 2) for index, (x, y) in enumerate(corners)], np.int32)
    yield "windows", partial(windows.cut, region, windows.Frame(0, 0, REGION, REGION), places, SIDE)
    starts = lay_starts()
    slots = np.arange(len(starts) ** 2, dtype=np.int32).reshape(len(starts), len(starts))
    view = canvas.View(MAP, MAP, SIDE, False, starts, starts, slots)
    logits = cupy.asarray(random.normal(size=(slots.size, CLASSES, LOGIT_SIDE, LOGIT_SIDE)).astype(np.float32))
    total, seen = (cupy.zeros(shape, np.float32) for shape in ((CLASSES, MAP, MAP), (MAP, MAP)))
    band = canvas.Band(MAP, MAP, 0, 0, total, seen)
    yield "canvas, one view", partial(canvas.add_view, band, view, logits)
    yield "canvas, finish", partial(canvas.finish, band)


def lay_losses(dtype: str) -> Iterator[tuple[str, Call]]:
    """Both losses and their gradients, found right on a small batch, on a large one."""
    truth = torch.eye(2, device="cuda")[torch.arange(IMAGES, device="cuda") % 2]
    small, few = random_batch(dtype, BATCH)
    logits, labels = random_batch(dtype, IMAGES)
    tolerance = 1e-5 if dtype == "float32" else 1e-2
    oeem, plain_oeem = partial(losses.oeem, labels=few), partial(losses.plain_oeem, labels=few, **OEEM)
    beta_kl, plain_beta_kl = (
        partial(loss, truth=truth[:BATCH], **BETA_KL) for loss in (losses.beta_kl, losses.plain_beta_kl)
    )
    agree("oeem", small, oeem, plain_oeem, tolerance)
    agree("beta-KL", small, beta_kl, plain_beta_kl, tolerance)
    for name, loss in (
        ("oeem", partial(losses.oeem, logits, labels)),
        ("beta-KL", partial(losses.beta_kl, logits, truth, **BETA_KL)),
    ):
        yield f"{name} forward, {dtype}", loss
        yield f"{name} backward, {dtype}", partial(torch.autograd.grad, loss(), logits, retain_graph=True)


def agree(
    name: str,
    logits: Tensor,
    loss: Callable[[Tensor], Tensor],
    plain: Callable[[Tensor], Tensor],
    tolerance: float,
) -> None:
    """Raise Disagreement unless loss and gradient are those of the float64 statement, by relative norm."""
    wide = logits.detach().double().requires_grad_()
    ours, wanted = loss(logits), plain(wide)
    slopes = torch.autograd.grad(ours, logits)[0].double(), torch.autograd.grad(wanted, wide)[0]
    pairs = ((ours.double(), wanted), slopes)
    errors = [((one - other).norm() / other.norm()).item() for one, other in pairs]
    if not max(errors) <= tolerance:
        raise Disagreement(f"{name} on {logits.dtype} is off its statement by {max(errors):.1e}: not timed")


def check_windows(cupy: Any, random: np.random.Generator) -> None:
    """Raise Disagreement unless windows are those that the engine cuts from an image at twice its size."""
    image = random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    places = np.array([(7, 11, 2 * SIDE, 2 * SIDE, 0), (SIDE, 3, 2 * SIDE, 2 * SIDE, 1)], np.int32)
    plain, mirrored = cupy.asnumpy(windows.cut(cupy.asarray(image), windows.Frame(0, 0, SIDE, SIDE), places, SIDE))
    scaled = scale_exactly(image, (2 * SIDE, 2 * SIDE))
    wanted = scaled[11 : 11 + SIDE, 7 : 7 + SIDE], scaled[3 : 3 + SIDE, SIDE:][:, ::-1]
    if not (np.array_equal(plain, wanted[0]) and np.array_equal(mirrored, wanted[1])):
        raise Disagreement("windows are not those of the engine: not timed")


def check_canvas(cupy: Any, random: np.random.Generator) -> None:
    """Raise Disagreement unless the map of a single window is the softmax of its upsampled logits."""
    logits = random.normal(size=(1, CLASSES, LOGIT_SIDE, LOGIT_SIDE)).astype(np.float32)
    total, seen = (cupy.zeros(shape, np.float32) for shape in ((CLASSES, SIDE, SIDE), (SIDE, SIDE)))
    starts = np.zeros(1, np.int32)
    view = canvas.View(SIDE, SIDE, SIDE, False, starts, starts, np.zeros((1, 1), np.int32))
    band = canvas.Band(SIDE, SIDE, 0, 0, total, seen)
    canvas.add_view(band, view, cupy.asarray(logits))
    upsampling = upsampling_matrix(SIDE, SIDE // LOGIT_SIDE)
    made, planes = cupy.asnumpy(total), cupy.asnumpy(canvas.finish(band))
    upsampled = upsampling @ logits[0] @ upsampling.T
    error = np.abs(made - softmax_beside_zero(upsampled[1:] - upsampled[:1])).max()
    if not error <= 1e-5:
        raise Disagreement(f"the canvas is off the engine's by {error:.1e}: not timed")
    if not (np.array_equal(planes[0], made.argmax(0)) and np.array_equal(planes[1:], np.rint(255 * made[1:]))):
        raise Disagreement("the finished map is not that of its probabilities: not timed")


def compare_oeem(repeats: int) -> dict[str, float]:
    """Forward and backward of OEEM as a training step calls it: kernels, eager torch, compiled torch; float32."""
    logits, labels = random_batch("float32", BATCH)
    plain = partial(losses.plain_oeem, labels=labels, **OEEM)
    versions: dict[str, Callable[[Tensor], Tensor]] = {
        "kernels": partial(losses.oeem, labels=labels),
        "eager": plain,
        "compiled": torch.compile(plain),
    }

    def step(loss: Callable[[Tensor], Tensor]) -> None:
        torch.autograd.grad(loss(logits), logits)

    return {name: time_called(partial(step, loss), repeats)[0] for name, loss in versions.items()}
