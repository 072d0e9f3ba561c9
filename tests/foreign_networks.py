"""Networks as others store them, exported from torch plainly, or written as Keras' converters write them; and what
publishers write beside theirs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from glassrt.export.importing.settings import Settings, load_settings
from glassrt.training.networks.encoders import build_encoder

WINDOW = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALISED = {"scale": 255, "mean": list(MEAN), "std": list(STD)}
SEGMENTS = {"kind": "segmentation", "mpp": 0.5, "licence": "free", "classes": ["stroma", "gland", "fat"]}
WSINFER: dict[str, Any] = {
    "spec_version": "1.0", "architecture": "resnet34", "num_classes": 3,
    "class_names": ["grade3", "grade4+5", "benign"], "patch_size_pixels": 100, "spacing_um_px": 0.88,
    "transform": [
        {"name": "Resize", "arguments": {"size": 64}}, {"name": "ToTensor"},
        {"name": "Normalize", "arguments": {"mean": [0.7238, 0.5716, 0.6779], "std": [0.112, 0.1459, 0.1089]}},
    ],
}  # fmt: skip
MONAI: dict[str, Any] = {
    "version": "0.6.1", "name": "Pathology tumor detection", "data_source": "Camelyon dataset",
    "network_data_format": {
        "inputs": {"image": {
            "type": "image", "format": "magnitude", "num_channels": 3, "spatial_shape": [64, 64], "dtype": "float32",
            "value_range": [-1, 1], "is_patch_data": True, "channel_def": {"0": "R", "1": "G", "2": "B"},
        }},
        "outputs": {"pred": {
            "type": "probability", "format": "classification", "num_channels": 1, "spatial_shape": [1, 1],
            "dtype": "float32", "value_range": [0, 1], "channel_def": {"0": "metastasis"},
        }},
    },
}  # fmt: skip


class UNet(nn.Module):
    """Two levels, three classes, float `[N, 3, H, W]` -> `[N, 3, H, W]`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.tell = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.first(x)
        logits: Tensor = self.tell(torch.cat([fine, self.up(self.down(fine))], 1))
        return logits


class ResNet(nn.Module):
    """ResNet18 and a linear layer over the mean of its last map: `[N, 3, H, W]` -> `[N, 3]`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_encoder("resnet18", 32)
        self.tell = nn.Linear(512, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.tell(self.encoder(x)[-1].mean((2, 3)))
        return logits


class Transformer(nn.Module):
    """A small vision transformer: `[N, 3, 64, 64]` -> the first token's features `[N, 24]`, and all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 24, 16, stride=16)
        self.token = nn.Parameter(torch.randn(1, 1, 24))
        self.place = nn.Parameter(torch.randn(1, 17, 24))
        layer = nn.TransformerEncoderLayer(24, 4, 48, 0.0, activation="gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], 1) + self.place
        tokens = self.layers(tokens)
        return tokens[:, 0], tokens


def make_network(kind: type[nn.Module]) -> nn.Module:
    """The same each time, in inference mode."""
    torch.manual_seed(4)
    return kind().eval()


def export_plainly(network: nn.Module, path: Path, free: bool = False, **options: Any) -> Path:
    """The file that torch writes of a network, for one window of 64 pixels or any number of them."""
    axes = {"dynamic_shapes": ({0: torch.export.Dim("N")},)} if free else {}
    example = torch.rand(2 if free else 1, 3, WINDOW, WINDOW)
    torch.onnx.export(network, (example,), path, dynamo=True, verbose=False, **axes, **options)
    return path


def give_normalised(windows: np.ndarray) -> Tensor:
    """Windows `[N, H, W, 3]` as networks trained on ImageNet take them."""
    given = (windows.astype(np.float32) / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    return torch.from_numpy(given.astype(np.float32).transpose(0, 3, 1, 2).copy())


def write_graph(
    path: Path,
    end: str = "Softmax",
    classes: int = 3,
    layout: str = "nhwc",
    dtype: int = TensorProto.FLOAT,
    shape: Sequence[int | str | None] | None = None,
    pooled: bool = False,
    names: Sequence[str] = ("input_1", "softmax"),
    opset: int = 13,
    more: Sequence[onnx.NodeProto] = (),
    outputs: Sequence[str] = (),
    ir_version: int = 8,
) -> Path:
    """A convolution over bytes as Caffe took them, and what makes probabilities of it, in one layout throughout.

    `end` "" leaves logits; `more` nodes come before the end, after "told", which they make "final" of.
    """
    random = np.random.default_rng(classes)
    weights = random.normal(0, 0.004, (classes, 3, 3, 3)).astype(np.float32)
    image, output = names
    last, side = layout == "nhwc", WINDOW
    steps = [helper.make_node("Cast", [image], ["float"], to=TensorProto.FLOAT)]
    if last:
        steps.append(helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]))
    steps.append(helper.make_node("Conv", ["planes" if last else "float", "weights"], ["made"], pads=[1, 1, 1, 1]))
    value = "made"
    if pooled:
        steps += [
            helper.make_node("GlobalAveragePool", [value], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
        ]
        value = "flat"
    elif last:
        steps.append(helper.make_node("Transpose", [value], ["back"], perm=[0, 2, 3, 1]))
        value = "back"
    steps.append(helper.make_node("Identity", [value], ["told"]))
    steps += more
    axis = {"axis": -1 if last or pooled else 1} if end == "Softmax" else {}
    steps.append(helper.make_node(end or "Identity", ["final" if more else "told"], [output], **axis))
    given = shape or (["N", side, side, 3] if last else ["N", 3, side, side])
    graph = helper.make_graph(
        steps,
        "foreign",
        [helper.make_tensor_value_info(image, dtype, given)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (output, *outputs)],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version), path)
    return path


def run_plainly(path: Path, given: np.ndarray) -> np.ndarray:
    """What the file gives by itself."""
    session = onnxruntime.InferenceSession(str(path))
    output: np.ndarray = session.run(None, {session.get_inputs()[0].name: given})[0]
    return output


def set_up(folder: Path, **keys: Any) -> Settings:
    """The settings that a bundle.toml of these keys says."""
    return load_settings(write_toml(folder / "bundle.toml", **keys), {}).settings


def write_toml(path: Path, **keys: Any) -> Path:
    lines = [
        f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for name, value in keys.items()
    ]
    path.write_text("\n".join(lines) + "\n")
    return path
