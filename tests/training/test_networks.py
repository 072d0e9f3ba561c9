"""Encoders and the networks on them: public names, strides, weights."""

from pathlib import Path

import pytest
import torch
from torch import nn

from glassrt.engine.errors import TrainingError
from glassrt.training import checkpoint
from glassrt.training.networks.classifier import PatchClassifier
from glassrt.training.networks.efficientnet_lite import EfficientNetLite
from glassrt.training.networks.encoders import STRIDES, build_encoder, load_weights
from glassrt.training.networks.pspnet import PSPNet, pooling_matrix, spreading_matrix
from glassrt.training.networks.resnet38 import ResNet38, convert, public_name

LIGHT = [(name, stride) for name, strides in STRIDES.items() for stride in strides if name != "resnet38"]


@pytest.mark.parametrize(("name", "output_stride"), LIGHT)
def test_encoders_show_their_stages(name: str, output_stride: int) -> None:
    encoder = build_encoder(name, output_stride).eval()
    with torch.inference_mode():
        maps = encoder(torch.zeros(1, 3, 64, 96))
    strides = [min(stride, output_stride) for stride in (4, 8, 16, 32)]
    strides = [1, 2, 4, 8, 16] if name == "separable" else strides
    expected = [(channels, 64 // s, 96 // s) for channels, s in zip(encoder.channels, strides, strict=True)]
    assert [tuple(each.shape[1:]) for each in maps] == expected


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11176512),
        ("resnet34", 21284672),
        ("resnet50", 23508032),
        ("resnet101", 42500160),
        ("resnet152", 58143808),
    ],
)
def test_resnets_have_torchvisions_parameters(name: str, parameters: int) -> None:
    """The counts of torchvision's networks, without their classifiers of 512 or 2048 times 1000 weights."""
    state = build_encoder(name, 32).state_dict()
    assert sum(parameter.numel() for parameter in build_encoder(name, 32).parameters()) == parameters
    last = {"resnet18": "layer4.1.bn2", "resnet34": "layer4.2.bn2"}.get(name, "layer4.2.bn3")
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.1.weight", f"{last}.bias"} <= state.keys()


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "resnet50"])
def test_dilation_keeps_what_stride_32_computes(name: str) -> None:
    """On a constant picture stride and dilation cannot differ: the padding apart, all cells are alike."""
    torch.manual_seed(0)
    networks = [build_encoder(name, stride).eval() for stride in (8, 32)]
    networks[1].load_state_dict(networks[0].state_dict())
    with torch.inference_mode():
        fine, coarse = (network(torch.full((1, 3, 512, 512), 0.3))[-1] for network in networks)
    assert torch.allclose(fine[0, :, 32, 32], coarse[0, :, 8, 8], rtol=1e-3, atol=1e-4)


def test_every_array_of_the_public_resnet38_has_its_place() -> None:
    blocks = {"2": ("a", "b1", "b2"), "3": ("a", "b1", "b2"), "4": ("a", "b1", "b2", "b3", "b4", "b5")}
    blocks |= {"5": ("a", "b1", "b2"), "6": ("a",), "7": ("a",)}
    arrays = ["conv1a_weight", "linear1000_weight", "linear1000_bias"]
    statistics = ("gamma", "beta", "moving_mean", "moving_var")
    arrays += [f"bn7_{kind}" for kind in statistics]
    for stage, names in blocks.items():
        for name in names:
            branches = ["branch2a", "branch2b1"] + (["branch2b2"] if stage in "67" else [])
            arrays += [f"res{stage}{name}_{branch}_weight" for branch in branches]
            arrays += [f"bn{stage}{name}_{branch}_{kind}" for branch in branches for kind in statistics]
            arrays += [f"res{stage}{name}_branch1_weight"] if name == "a" else []
    with torch.device("meta"):
        expected = ResNet38().state_dict()
    names = {public_name(array) for array in arrays} - {None}
    assert names == {name for name in expected if not name.endswith("num_batches_tracked")}
    assert convert({"arg:conv1a_weight": torch.zeros(64, 3, 3, 3).numpy()}).keys() == {"conv1a.weight"}


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_logits_come_at_the_output_stride(output_stride: int) -> None:
    network = PSPNet(3, output_stride=output_stride)
    pixels = torch.zeros(2, 3, 64, 128)
    with torch.inference_mode():
        assert network.eval()(pixels).shape == (2, 3, 64 // output_stride, 128 // output_stride)
        _, auxiliary = network.train()(pixels)
    stride = min(16, output_stride)
    assert auxiliary.shape == (2, 3, 64 // stride, 128 // stride)


@pytest.mark.parametrize(("height", "width", "grid"), [(20, 20, 3), (20, 20, 6), (7, 13, 6), (4, 4, 1)])
def test_pooling_as_a_matrix_is_adaptive_pooling(height: int, width: int, grid: int) -> None:
    values = torch.randn(2, 5, height, width)
    pooled = nn.functional.adaptive_avg_pool2d(values, grid)
    by_matrix = (values.flatten(2) @ pooling_matrix(height, width, grid)).unflatten(2, (grid, grid))
    assert torch.allclose(by_matrix, pooled, atol=1e-6)
    spread = nn.functional.interpolate(pooled, (height, width), mode="bilinear", align_corners=False)
    by_matrix = (pooled.flatten(2) @ spreading_matrix(height, width, grid)).unflatten(2, (height, width))
    assert torch.allclose(by_matrix, spread, atol=1e-6)


def test_pooled_logits_are_the_mean_of_the_activation_maps() -> None:
    """Eq. 1 of OEEM: the classifier's weights on the fused map, without pooling; with it, the logits."""
    network = PatchClassifier(2, "resnet18", 16).eval()
    pixels = 255 * torch.rand(2, 3, 112, 112)
    with torch.inference_mode():
        finest, *coarser = network.encoder(pixels)[-3:]
        sizes = [nn.functional.interpolate(each, finest.shape[2:], mode="bilinear") for each in coarser]
        pooled = torch.cat([finest, *sizes], 1).mean((2, 3))
        expected = pooled @ network.classify.weight[:, :, 0, 0].T + network.classify.bias
        assert torch.allclose(network(pixels), expected, atol=1e-4)
        assert network.activations(pixels).shape == (2, 2, 14, 14)


def test_public_weights_load_by_name() -> None:
    encoder = EfficientNetLite()
    before = encoder._blocks[15]._project_conv.weight.clone()
    load_weights(encoder, "efficientnet_lite0", "imagenet")
    assert not torch.equal(encoder._blocks[15]._project_conv.weight, before)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_load_from_a_file_without_their_classifier(tmp_path: Path, suffix: str) -> None:
    source, target = build_encoder("resnet18", 32), build_encoder("resnet18", 8)
    tensors = {**source.state_dict(), "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(tensors, file)
    else:
        checkpoint.save(file, tensors, {})
    load_weights(target, "resnet18", str(file))
    assert torch.equal(target.get_parameter("layer4.1.conv2.weight"), source.get_parameter("layer4.1.conv2.weight"))


class Trap:
    """Would run code if it were unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_of_weights_that_is_not_there_is_named(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(TrainingError, match="does not exist: `weights` names a file"):
        load_weights(build_encoder("resnet18", 32), "resnet18", str(tmp_path / f"weights{suffix}"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"junk", "no file of weights"),
        ({"conv1.weight": torch.zeros(1)}, "belongs to another network"),
        ({"state_dict": {}}, "more than named tensors"),
        (Trap(), "no file of weights"),
    ],
)
def test_a_file_that_holds_no_such_weights_is_refused(tmp_path: Path, content: object, says: str) -> None:
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(TrainingError, match=says):
        load_weights(build_encoder("resnet18", 32), "resnet18", str(file))


@pytest.mark.parametrize(
    ("name", "stride", "source", "says"),
    [
        ("vgg16", 8, "random", "encoder 'vgg16' is not known"),
        ("resnet38", 16, "random", "resnet38 runs at 8"),
        ("resnet18", 8, "imagenet", "no package ships ImageNet weights of resnet18"),
    ],
)
def test_encoders_that_do_not_exist_are_refused(name: str, stride: int, source: str, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        load_weights(build_encoder(name, stride), name, source)
