"""A bundle's network as users of torch have it: with MONAI's sliding window, and in a plain statement."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.benchmarks.contender import Contender, Probabilities
from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import BundleError
from glassrt.training.networks.efficientnet_lite import WIDTH_DEPTH
from glassrt.training.networks.fpn import FPN, STRIDES
from glassrt.training.networks.pspnet import PSPNet
from glassrt.training.networks.segmenter import PSPNET_STRIDES


def build_monai(bundle: Bundle, pixels: NDArray[np.uint8]) -> Contender | None:
    """MONAI's sliding window, where it is installed and the test has one scale, which is all that it does."""
    return slide_monai(bundle, pixels, "", torch.contiguous_format)


def build_monai_channels_last(bundle: Bundle, pixels: NDArray[np.uint8]) -> Contender | None:
    """The same in the memory format that torch's convolutions are fastest in."""
    return slide_monai(bundle, pixels, ", channels last", torch.channels_last)


def slide_monai(
    bundle: Bundle, pixels: NDArray[np.uint8], how: str, memory_format: torch.memory_format
) -> Contender | None:
    """MONAI's sliding window in a memory format."""
    if bundle.manifest.views[0] != (1.0,) or bundle.manifest.views[1] or find_spec("monai") is None:
        return None
    import monai
    from monai.inferers.inferer import SlidingWindowInferer

    network, image = prepare_torch(bundle, pixels, memory_format)
    window, stride = bundle.manifest.window, bundle.manifest.stride
    # The fastest of 1, 4 and 8 on two cores: 1.7, 2.5 and 3.7 s on the slide of the tests.
    inferer = SlidingWindowInferer(window, sw_batch_size=1, overlap=1 - stride / window)

    def run() -> Probabilities:
        with torch.inference_mode():
            return join_contour(cast(Tensor, inferer(image, network)).softmax(1)[0], bundle).numpy()

    return Contender(f"MONAI {monai.__version__} SlidingWindowInferer{how}", "fp32", run)


def build_torch(bundle: Bundle, pixels: NDArray[np.uint8]) -> Contender:
    """A plain torch statement."""
    return state_plainly(bundle, pixels, "", torch.contiguous_format)


def build_torch_channels_last(bundle: Bundle, pixels: NDArray[np.uint8]) -> Contender:
    """The same in the memory format that torch's convolutions are fastest in."""
    return state_plainly(bundle, pixels, ", channels last", torch.channels_last)


def state_plainly(bundle: Bundle, pixels: NDArray[np.uint8], how: str, memory_format: torch.memory_format) -> Contender:
    """The plain torch statement in a memory format."""
    network, image = prepare_torch(bundle, pixels, memory_format)

    def run() -> Probabilities:
        with torch.inference_mode():
            return join_contour(multi_scale(network, image, bundle)[0], bundle).numpy()

    return Contender(f"torch {torch.__version__}, crop by crop{how}", "fp32", run)


def prepare_torch(
    bundle: Bundle, pixels: NDArray[np.uint8], memory_format: torch.memory_format = torch.contiguous_format
) -> tuple[nn.Module, Tensor]:
    """The network as torch's users have it, and the image `[1, 3, H, W]` in float32."""
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    network = Upsampled(rebuild_network(bundle)).eval()
    return network.to(memory_format=memory_format), image.contiguous(memory_format=memory_format)  # type: ignore[call-overload]


class Upsampled(nn.Module):
    """A network whose logits have the size of its input, as MONAI and mmsegmentation expect."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.network(x), x.shape[2:], mode="bilinear", align_corners=False)


def join_contour(probabilities: Tensor, bundle: Bundle) -> Tensor:
    """Probabilities `[C, H, W]` of the classes, of those of the network's planes: a contour is part of its class."""
    number = bundle.segmentation.contoured
    if not number:
        return probabilities
    probabilities[number] += probabilities[-1]
    return probabilities[:-1]


def multi_scale(network: nn.Module, image: Tensor, bundle: Bundle) -> Tensor:
    """Probabilities `[1, C, H, W]` averaged over scales and flips, as mmsegmentation's test-time augmentation does."""
    manifest = bundle.segmentation
    height, width = image.shape[2:]
    views = []
    for scale in manifest.scales:
        size = (int(scale * height + 0.5), int(scale * width + 0.5))
        scaled = image
        if scale != 1:  # to whole grey values, as the images are that mmsegmentation scales
            scaled = F.interpolate(image, size, mode="bilinear", align_corners=False).round()
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


def rebuild_network(bundle: Bundle) -> nn.Module:
    """The bundle's float32 graph as a torch network: folded batch norms become biases before one that does nothing.

    Raises BundleError for another network than PSPNet or FPN on an EfficientNet-Lite.
    """
    graph = onnx.load_from_string(bundle.read_graph()).graph
    stored = {each.name: each for each in graph.initializer}
    networks = [fill(network, stored) for network in candidates(bundle, stored)]
    for network in networks:
        if network is not None:
            return network
    raise BundleError(f"{bundle.path} is neither PSPNet nor FPN on an EfficientNet-Lite: a part is missing or differs")


def candidates(bundle: Bundle, stored: Mapping[str, onnx.TensorProto]) -> Iterator[nn.Module]:
    """The networks that a bundle's graph may be of."""
    manifest = bundle.segmentation
    last = stored.get("network.classify.1.weight")
    for encoder in WIDTH_DEPTH:
        if last is not None and manifest.output_stride in STRIDES:
            yield FPN(manifest.planes, encoder, manifest.output_stride, last.dims[1])
        if manifest.output_stride in PSPNET_STRIDES:
            yield PSPNet(manifest.planes, encoder, manifest.output_stride)


def fill(network: nn.Module, stored: Mapping[str, onnx.TensorProto]) -> nn.Module | None:
    """The network with a graph's weights, None where they do not fit."""
    network.eval()
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.fill_(1 - module.eps)
        if not isinstance(module, nn.Conv2d) or name.startswith("auxiliary"):
            continue
        weight = stored.get(f"network.{name}.weight")
        bias = stored.get(f"network.{name}.bias") or stored.get(f"network.{name}.weight_bias")
        if weight is None or tuple(weight.dims) != tuple(module.weight.shape):
            return None
        module.weight = nn.Parameter(torch.from_numpy(numpy_helper.to_array(weight).copy()))
        # Without a bias are those that no batch norm follows.
        module.bias = None if bias is None else nn.Parameter(torch.from_numpy(numpy_helper.to_array(bias).copy()))
    return network
