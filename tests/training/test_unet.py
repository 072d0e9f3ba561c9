"""The modified U-Net: its shapes, its start from an auto-encoder, its graph."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.engine.bundles.tensors import Signature, TensorSpec
from glassrt.engine.errors import TrainingError
from glassrt.export.to_onnx import export_graph
from glassrt.training.networks.separable import ResidualBlock, separable
from glassrt.training.networks.unet import AutoEncoder, Design, UNet

SMALL = Design(filters=4, poolings=2)


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return 255 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def trained(network: nn.Module, seed: int = 0) -> nn.Module:
    """As if it had learned something: statistics and scales of batch norm are not those of a fresh one."""
    random = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias):
                assert values is not None
                values.data.normal_(0, 0.2, generator=random)
            for values in (module.running_var, module.weight):
                assert values is not None
                values.data.uniform_(0.5, 1.5, generator=random)
    return network.eval()


def test_the_paper_begins_with_32_filters_and_pools_four_times() -> None:
    with torch.device("meta"):
        network = UNet(2, Design())
    assert network.encoder.channels == (32, 64, 128, 256, 512)
    assert [each.reduce[0].out_channels for each in network.rises] == [256, 128, 64, 32]  # type: ignore[union-attr,index]
    spread = [each for each in network.modules() if isinstance(each, nn.Conv2d) and each.kernel_size != (1, 1)]
    assert all(each.groups == each.in_channels for each in spread)
    assert len(spread) == 2 * (5 + 4)


@pytest.mark.parametrize(("design", "multiple"), [(SMALL, 4), (Design(filters=4, poolings=4), 16), (Design(4, 0), 1)])
def test_logits_are_as_large_as_the_picture(design: Design, multiple: int) -> None:
    network, rebuilder = UNet(3, design).eval(), AutoEncoder(design).eval()
    assert (network.output_stride, network.multiple) == (1, multiple)
    with torch.inference_mode():
        for height, width in ((2, 3), (5, 2)):
            x = pixels(2, 3, height * multiple, width * multiple)
            assert network(x).shape == (2, 3, *x.shape[2:])
            assert rebuilder(x).shape == x.shape


@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "resnet18", "resnet50"])
def test_encoders_by_name_give_logits_at_stride_4(encoder: str) -> None:
    network = UNet(2, Design(filters=8, encoder=encoder)).eval()
    assert (network.output_stride, network.multiple) == (4, 32)
    with torch.inference_mode():
        assert network(pixels(2, 3, 64, 96)).shape == (2, 2, 16, 24)


@pytest.mark.parametrize("network", [UNet(2, SMALL), AutoEncoder(SMALL), UNet(2, Design(4, encoder="resnet18"))])
@pytest.mark.parametrize(("height", "width"), [(66, 64), (64, 65)])
def test_other_sizes_are_refused(network: nn.Module, height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{width} x {height} px: the network needs multiples of (4|32)$"):
        network(pixels(1, 3, height, width))


def test_a_larger_picture_has_the_same_logits_away_from_borders() -> None:
    network = trained(UNet(2, SMALL))
    whole = pixels(1, 3, 192, 160)
    with torch.inference_mode():
        part = network(whole[..., 32:160, 16:144])
        inner = (..., slice(56, 72), slice(56, 72))
        assert torch.allclose(part[inner], network(whole)[..., 88:104, 72:88], atol=1e-5)
        assert not torch.allclose(part[..., :16, :16], network(whole)[..., 32:48, 16:32], atol=1e-5)


def test_separable_convolutions_mix_channels_at_a_pixel_only() -> None:
    """A spread and a mixing, written with einsum as one dense convolution."""
    network = separable(3, 5)
    spread, mix = network[0].weight, network[1].weight
    dense = torch.einsum("oi,ihw->oihw", mix[:, :, 0, 0], spread[:, 0])  # type: ignore[index]
    x = torch.rand(2, 3, 7, 6)
    assert torch.allclose(network[:2](x), F.conv2d(x, dense, padding=1), atol=1e-6)


def test_blocks_skip_what_they_do_not_change() -> None:
    block = ResidualBlock(4, 4)
    nn.init.zeros_(block.second[2].weight)  # type: ignore[arg-type]
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block(x), x.relu())


def test_a_u_net_starts_as_its_auto_encoder() -> None:
    source = trained(AutoEncoder(SMALL))
    network = trained(UNet(2, SMALL), seed=1)
    assert isinstance(network, UNet)
    assert isinstance(source, AutoEncoder)
    x = pixels(2, 3, 16, 24)
    with torch.inference_mode():
        assert not torch.allclose(network.decode(x), source.decode(x))
        network.start_from(source)
        assert torch.equal(network.decode(x), source.decode(x))
    before = {name: value.clone() for name, value in source.state_dict().items()}
    network.train()(x).square().mean().backward()
    laterals = [(name, each) for name, each in network.named_parameters() if "lateral" in name]
    assert len(laterals) == SMALL.poolings
    for name, weight in laterals:
        assert not weight.any(), name
        assert weight.grad is not None
        assert weight.grad.any(), f"{name} cannot learn"
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())


@pytest.mark.parametrize(
    "design", [Design(8, 2), Design(4, 3), Design(4, 2, encoder="resnet18")], ids=["filters", "poolings", "encoder"]
)
def test_another_design_is_refused(design: Design) -> None:
    with pytest.raises(TrainingError, match="cannot start from an auto-encoder"):
        UNet(2, design).start_from(AutoEncoder(SMALL))


def test_an_auto_encoder_has_no_encoder_by_name() -> None:
    with pytest.raises(TrainingError, match="leave `encoder` out"):
        AutoEncoder(Design(encoder="resnet18"))


def test_an_auto_encoder_learns_to_rebuild() -> None:
    torch.manual_seed(0)
    network = AutoEncoder(Design(filters=8, poolings=1)).train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    x = F.interpolate(pixels(4, 3, 4, 4), size=(16, 16), mode="bilinear")
    errors = []
    for _ in range(60):
        error = F.mse_loss(network(x), network.normalise(x))
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    variance = network.normalise(x).var((0, 2, 3)).mean().item()
    assert errors[-1] < 0.3 * variance  # a rebuilder of the mean colour alone reaches the variance
    assert errors[-1] < 0.1 * errors[0]


@pytest.mark.parametrize("encoder", [None, "resnet18"])
def test_a_frozen_encoder_keeps_its_statistics_and_the_decoder_does_not(encoder: str | None) -> None:
    network = UNet(2, Design(4, 2, encoder, frozen=True)).train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(pixels(2, 3, 64, 64)).sum().backward()
    changed = {name for name, value in network.named_buffers() if not torch.equal(value, before[name])}
    assert any(name.startswith("rises.") for name in changed)
    assert not any(name.startswith("encoder.") for name in changed)
    assert any(each.grad is not None and bool(each.grad.any()) for each in network.encoder.parameters())


def test_an_encoder_that_does_not_learn_stays_as_it_starts() -> None:
    network = UNet(2, Design(4, 2, encoder_learns=False)).train()
    before = {name: value.clone() for name, value in network.encoder.state_dict().items()}
    network(pixels(2, 3, 16, 16)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.encoder.state_dict().items())
    assert all(each.grad is None for each in network.encoder.parameters())


@pytest.mark.parametrize("encoder", [None, "efficientnet_lite0"])
def test_the_graph_computes_the_network(encoder: str | None) -> None:
    network = trained(UNet(2, Design(4, 2, encoder)))
    height, width, stride = 64, 96, 1 if encoder is None else 4
    window = TensorSpec("window", "uint8", (None, height, width, 3))
    logits = TensorSpec("logits", "float32", (None, 2, height // stride, width // stride))
    graph = export_graph(network, Signature((window,), (logits,)))
    assert "Shape" not in {node.op_type for node in onnx.load_from_string(graph).graph.node}
    session = onnxruntime.InferenceSession(graph)
    x = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    (found,) = session.run(None, {"window": x})
    with torch.inference_mode():
        wanted = network(torch.from_numpy(x).float().permute(0, 3, 1, 2)).numpy()
    assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()
