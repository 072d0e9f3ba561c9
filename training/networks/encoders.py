"""Encoders by name, and the ImageNet weights they start from.

An encoder turns normalised `[N, 3, H, W]` into the maps of its last stages, fine to coarse, four of them but for
ResNet38, which shows three, and beta-KL's, which shows five: `channels` tells their depths, `pixel_mean` and
`pixel_std` (0 to 1, RGB) what its public weights were normalised with.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from glassrt.engine.errors import TrainingError
from glassrt.training import checkpoint
from glassrt.training.networks import efficientnet_lite, resnet, resnet38
from glassrt.training.networks.separable import SeparableEncoder

Encoder = resnet38.ResNet38 | resnet.ResNet | efficientnet_lite.EfficientNetLite | SeparableEncoder
SEPARABLE, FILTERS, POOLINGS = "separable", 32, 4  # as beta-KL has it
STRIDES: dict[str, tuple[int, ...]] = {
    "resnet38": (8,),
    **dict.fromkeys(resnet.LAYOUTS, (8, 16, 32)),
    **dict.fromkeys(efficientnet_lite.WIDTH_DEPTH, (8, 16, 32)),
    SEPARABLE: (16,),
}
# What public weight files hold besides the encoder: ImageNet's classifier.
CLASSIFIERS = ("_conv_head.", "_bn1.", "_fc.", "fc.", "fc8.")
OWN = ("encoder.encoder.", "fine.encoder.", "encoder.")  # how the tensors of an encoder begin in the models of runs
IMAGENET, RANDOM = "imagenet", "random"
PACKAGED = tuple(efficientnet_lite.WIDTH_DEPTH)  # whose weights packages ship


def build_encoder(name: str, output_stride: int) -> Encoder:
    """The encoder with random weights. Raises TrainingError for a name or stride that does not exist."""
    if name not in STRIDES:
        raise TrainingError(f"encoder {name!r} is not known; choose one of {', '.join(STRIDES)}")
    if output_stride not in STRIDES[name]:
        strides = ", ".join(map(str, STRIDES[name]))
        raise TrainingError(f"output_stride {output_stride}: {name} runs at {strides}")
    if name == "resnet38":
        return resnet38.ResNet38()
    if name == SEPARABLE:
        return SeparableEncoder(FILTERS, POOLINGS)
    if name in resnet.LAYOUTS:
        return resnet.ResNet(name, output_stride)
    return efficientnet_lite.EfficientNetLite(name, output_stride)


def load_weights(encoder: nn.Module, name: str, source: str) -> None:
    """Start `encoder` from `source`: `imagenet` (where a package ships the weights), `random`, or a weight file.

    A file is safetensors or a `.pth` of nothing but tensors, with the names of torchvision (ResNets),
    EfficientNet-PyTorch (Lite) or `resnet38.convert`; its ImageNet classifier is left away. Of the model of a run, any
    network on an encoder of this name, the encoder is taken.
    """
    check_weights(name, source)
    if source == RANDOM:
        return
    path = efficientnet_lite.packaged_weights(name) if source == IMAGENET else Path(source)
    tensors = read_weights(path)
    if "pixel_mean" in tensors:
        raise TrainingError(f"{path} is of a network that normalises pixels by its set's own colours: choose another")
    tensors = pick_encoder(tensors)
    checkpoint.load_into(encoder, tensors, path)


def pick_encoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an encoder alone, of a public file of weights or of the model of a run."""
    for part in OWN:
        if mine := {key.removeprefix(part): value for key, value in tensors.items() if key.startswith(part)}:
            return mine
    return {key: value for key, value in tensors.items() if not key.startswith(CLASSIFIERS)}


def check_weights(name: str, source: str) -> None:
    """Raise TrainingError if an encoder of this name cannot start from `source`, as far as that costs nothing."""
    if source == IMAGENET and name not in PACKAGED:
        raise TrainingError(f"no package ships ImageNet weights of {name}: set `weights` to a file, or to {RANDOM!r}")
    if source not in (IMAGENET, RANDOM) and not Path(source).is_file():
        raise TrainingError(f"{source} does not exist: `weights` names a file, {IMAGENET!r} or {RANDOM!r}")


def check_encoder(name: str, output_stride: int, source: str) -> None:
    """Raise TrainingError unless the encoder can be built and start from `source`; makes no weights."""
    with torch.device("meta"):
        build_encoder(name, output_stride)
    check_weights(name, source)


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a weight file. Nothing in it is executed: pickles are read with `weights_only=True`."""
    if path.suffix == ".safetensors":
        return checkpoint.load(path)[0]
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader fails on junk in whatever way the junk leads it to
        raise TrainingError(f"{path} is no file of weights ({type(error).__name__})") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise TrainingError(f"{path} holds more than named tensors: save the state_dict of the network alone")
    return tensors
