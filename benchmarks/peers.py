"""One network's weights through GlassRT and through what people use instead: the same pixels, the same windows.

No contender may skip background, and none reads the slide: an array in memory becomes the class probabilities of every
pixel.
"""

import statistics
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from operator import truediv
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.benchmarks.contender import Build, Contender, Probabilities, Worker
from glassrt.benchmarks.regions import read_region
from glassrt.engine.backends import choose, open_backend
from glassrt.engine.bundle import Bundle
from glassrt.engine.errors import BundleError, GlassError
from glassrt.engine.segment import segment_image
from glassrt.engine.selftest import TOLERANCES
from glassrt.training.networks.pspnet import PSPNet

Report = dict[str, Any]


def measure_peers(
    path: Path, bundle: Bundle, rounds: int, progress: Callable[[str], None] = lambda name: None
) -> Report:
    """Seconds of every contender in rounds in which they take turns, and how many times GlassRT's in float32 they are.

    Both are medians, the second of the rounds' own ratios, so that a machine whose speed drifts does not count.

    Raises GlassError, before any is timed, if one contender's classes differ from GlassRT's in float32 on more pixels
    than its precision may lose.
    """
    pixels = read_region(path, bundle)
    workers: list[Worker] = []
    try:
        for build in BUILDS:
            progress(f"starting {build.__name__}")
            worker = Worker(build, bundle, pixels)
            workers.append(worker)
        present = [worker for worker in workers if worker.name is not None]
        flips = check_classes(present, progress)
        seconds: dict[str, list[float]] = {worker.name: [] for worker in present}
        for number in range(rounds):
            for worker in present:
                progress(f"round {number + 1} of {rounds}: {worker.name}")
                seconds[worker.name].append(worker.time())
    finally:
        for worker in workers:
            worker.close()
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    first = seconds[present[0].name]
    return {
        "slide": path.name,
        "bundle": bundle.manifest.name,
        "pixels": list(pixels.shape[:2]),
        "scales": bundle.manifest.scales,
        "flips": bundle.manifest.flips,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "rows": [
            {
                "name": name,
                "unit": "s",
                "runs": seconds[name],
                "seconds": medians[name],
                "times_glassrt_fp32": statistics.median(map(truediv, seconds[name], first)),
                "other_class": flips[name],
            }
            for name in seconds
        ],
    }


def check_classes(workers: Sequence[Worker], progress: Callable[[str], None]) -> dict[str, float]:
    """The share of pixels that each gives another class than the first. Raises GlassError where it is too large."""
    flips: dict[str, float] = {}
    exact: NDArray[np.uint8] | None = None
    for worker in workers:  # which also warms up
        progress(f"checking {worker.name}")
        classes = worker.classes()
        exact = classes if exact is None else exact
        flips[worker.name] = float((classes != exact).mean())
        if flips[worker.name] > TOLERANCES[worker.precision].flips:
            raise GlassError(
                f"{worker.name} gives {flips[worker.name]:.2%} of the pixels another class than {workers[0].name}: "
                "its speed means nothing"
            )
    return flips


def build_exact(bundle: Bundle, pixels: NDArray[np.uint8]) -> Contender:
    """GlassRT in float32."""
    return build_glassrt(bundle, pixels, "fp32")


def build_fastest(bundle: Bundle, pixels: NDArray[np.uint8]) -> Contender | None:
    """GlassRT as `score` would run it, where that is another precision."""
    return None if choose(bundle)[1] == "fp32" else build_glassrt(bundle, pixels, "auto")


def build_glassrt(bundle: Bundle, pixels: NDArray[np.uint8], precision: str) -> Contender:
    """GlassRT's library call for an image in memory."""
    backend = open_backend(bundle, precision=precision)

    def run() -> Probabilities:
        return segment_image(pixels, bundle.manifest.mpp, bundle, backend)

    return Contender(f"GlassRT {backend.precision} ({backend.name})", backend.precision, run)


def build_monai(bundle: Bundle, pixels: NDArray[np.uint8]) -> Contender | None:
    """MONAI's sliding window, where it is installed and the test has one scale, which is all that it does."""
    if bundle.manifest.scales != (1.0,) or bundle.manifest.flips or find_spec("monai") is None:
        return None
    import monai
    from monai.inferers.inferer import SlidingWindowInferer

    network, image = prepare_torch(bundle, pixels)
    window, stride = bundle.manifest.window, bundle.manifest.stride
    # The fastest of 1, 4 and 8 on two cores: 1.7, 2.5 and 3.7 s on the slide of the tests.
    inferer = SlidingWindowInferer(window, sw_batch_size=1, overlap=1 - stride / window)

    def run() -> Probabilities:
        with torch.inference_mode():
            return cast(Tensor, inferer(image, network)).softmax(1)[0].numpy()

    return Contender(f"MONAI {monai.__version__} SlidingWindowInferer", "fp32", run)


def build_torch(bundle: Bundle, pixels: NDArray[np.uint8]) -> Contender:
    """A plain torch statement."""
    network, image = prepare_torch(bundle, pixels)

    def run() -> Probabilities:
        with torch.inference_mode():
            return multi_scale(network, image, bundle)[0].numpy()

    return Contender(f"torch {torch.__version__}, crop by crop", "fp32", run)


BUILDS: tuple[Build, ...] = (build_exact, build_fastest, build_monai, build_torch)


def prepare_torch(bundle: Bundle, pixels: NDArray[np.uint8]) -> tuple[nn.Module, Tensor]:
    """The network as torch's users have it, and the image `[1, 3, H, W]` in float32."""
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float().contiguous()
    return Upsampled(rebuild_network(bundle)).eval(), image


class Upsampled(nn.Module):
    """A network whose logits have the size of its input, as MONAI and mmsegmentation expect."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.network(x), x.shape[2:], mode="bilinear", align_corners=False)


def multi_scale(network: nn.Module, image: Tensor, bundle: Bundle) -> Tensor:
    """Probabilities `[1, C, H, W]` averaged over scales and flips, as mmsegmentation's test-time augmentation does."""
    manifest = bundle.manifest
    height, width = image.shape[2:]
    views = []
    for scale in manifest.scales:
        size = (int(scale * height + 0.5), int(scale * width + 0.5))
        scaled = image if scale == 1 else F.interpolate(image, size, mode="bilinear", align_corners=False)
        for flip in (False, True) if manifest.flips else (False,):
            logits = slide(network, scaled.flip(3) if flip else scaled, manifest.window, manifest.stride)
            logits = logits if scale == 1 else F.interpolate(logits, (height, width), mode="bilinear")
            probabilities = logits.softmax(1)
            views.append(probabilities.flip(3) if flip else probabilities)
    return torch.stack(views).mean(0)


def slide(network: nn.Module, image: Tensor, window: int, stride: int) -> Tensor:
    """Logits averaged over windows, the last of a row or column shifted back to end at the border."""
    height, width = image.shape[2:]
    down = -(-max(0, height - window) // stride) + 1
    across = -(-max(0, width - window) // stride) + 1
    total: Tensor | None = None
    count = torch.zeros(1, 1, height, width)
    for row in range(down):
        for column in range(across):
            bottom, right = min(row * stride + window, height), min(column * stride + window, width)
            top, left = max(0, bottom - window), max(0, right - window)
            logits = network(image[:, :, top:bottom, left:right])
            total = torch.zeros(1, logits.shape[1], height, width) if total is None else total
            total[:, :, top:bottom, left:right] += logits
            count[:, :, top:bottom, left:right] += 1
    assert total is not None
    return total / count


def rebuild_network(bundle: Bundle) -> PSPNet:
    """The bundle's float32 graph as a torch network: folded batch norms become biases before one that does nothing.

    Raises BundleError for another network than PSPNet on EfficientNet-Lite0.
    """
    graph = onnx.load_from_string(bundle.read_graph()).graph
    stored = {each.name: each for each in graph.initializer}
    network = PSPNet(len(bundle.manifest.classes), output_stride=bundle.manifest.output_stride).eval()
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.fill_(1 - module.eps)
        if not isinstance(module, nn.Conv2d) or name.startswith("auxiliary"):
            continue
        weight = stored.get(f"network.{name}.weight")
        bias = stored.get(f"network.{name}.bias") or stored.get(f"network.{name}.weight_bias")
        if weight is None or bias is None or tuple(weight.dims) != tuple(module.weight.shape):
            raise BundleError(
                f"{bundle.path} is not PSPNet on EfficientNet-Lite0: {name} is missing or has another shape"
            )
        module.weight = nn.Parameter(torch.from_numpy(numpy_helper.to_array(weight).copy()))
        module.bias = nn.Parameter(torch.from_numpy(numpy_helper.to_array(bias).copy()))
    return network
