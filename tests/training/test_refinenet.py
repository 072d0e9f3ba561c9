"""DA-RefineNet: the sizes of its table, its equations, and its two halves."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.training.networks.fusion import FUSIONS, Attention, AttentionPooled, Concat, build_fusion, crop_footprint
from glassrt.training.networks.refinenet import DARefineNet, Design, SimpleResidual

IMAGENET_CLASSIFIER = 2048 * 1000 + 1000  # which the authors' encoder keeps, but for their smallest network


def make(context: str | None, fusion: str, **others: object) -> DARefineNet:
    torch.manual_seed(0)
    design = Design("resnet18", context, fusion, widths=(16, 8), **others)  # type: ignore[arg-type]
    network = DARefineNet(4, design).eval()
    if network.context is not None:
        for weight in network.context.fits.parameters():
            nn.init.normal_(weight, std=0.1)  # as if they had learned something
    return network


@pytest.mark.parametrize(
    ("encoder", "context", "unused", "megabytes"),
    [
        ("resnet50", None, 0, 333.2),
        ("resnet101", None, IMAGENET_CLASSIFIER, 417.3),
        ("resnet152", None, IMAGENET_CLASSIFIER, 479.9),
        ("resnet50", "resnet50", IMAGENET_CLASSIFIER, 441.4),
        ("resnet101", "resnet50", IMAGENET_CLASSIFIER, 517.4),
        ("resnet152", "resnet50", IMAGENET_CLASSIFIER, 580.0),
    ],
)
def test_networks_have_the_sizes_of_table_1(encoder: str, context: str | None, unused: int, megabytes: float) -> None:
    with torch.device("meta"):
        network = DARefineNet(4, Design(encoder, context, "add"))
    parameters = sum(each.numel() for each in network.parameters()) + unused
    assert round(4 * parameters / 1e6, 1) == megabytes


@pytest.mark.parametrize(("context", "printed"), [(None, 250), ("resnet50", 350)])
def test_light_blocks_are_about_as_large_as_the_papers(context: str | None, printed: float) -> None:
    """Table I's rows 8 and 9, without the unused classifier; what the paper leaves open is worth 3 %."""
    with torch.device("meta"):
        network = DARefineNet(4, Design("resnet152", context, "add", light=True))
    assert 4e-6 * sum(each.numel() for each in network.parameters()) == pytest.approx(printed, rel=0.03)


@pytest.mark.parametrize("encoder", ["resnet18", "resnet34", "resnet50", "efficientnet_lite0", "efficientnet_lite2"])
def test_any_encoder_gives_logits_at_stride_4(encoder: str) -> None:
    network = DARefineNet(5, Design(encoder, encoder, "attention", widths=(16, 8))).eval()
    with torch.inference_mode():
        logits = network(torch.zeros(2, 3, 64, 96), torch.zeros(2, 3, 64, 64))
    assert logits.shape == (2, 5, 16, 24)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("light", [False, True])
def test_both_halves_make_the_whole(fusion: str, light: bool) -> None:
    """The context's features are all that the fine network sees of it: what is served as two graphs."""
    network = make("resnet18", fusion, light=light)
    fine, context = 255 * torch.rand(2, 3, 64, 64), 255 * torch.rand(2, 3, 64, 64)
    assert network.context is not None
    with torch.inference_mode():
        features = network.context(context)
        assert torch.equal(network(fine, context), network.fine(fine, *features))
        assert not torch.allclose(network(fine, context), network(fine, 255 - context))
    sizes = [2, 4, 8, 16] if fusion != "attention_pooled" else []
    widths = [8 if light else 16, 8, 8, 8]
    expected = [(2, width, size, size) for width, size in zip(widths, sizes, strict=True)] if sizes else []
    assert [tuple(each.shape) for each in features] == (expected or [(2, width) for width in widths])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_surroundings_start_silent(fusion: str) -> None:
    """What they show changes nothing yet, but they can learn from the first step on."""
    torch.manual_seed(0)
    network = DARefineNet(4, Design("resnet18", "resnet18", fusion, widths=(16, 8))).eval()
    fine, context = 255 * torch.rand(2, 3, 64, 64), 255 * torch.rand(2, 3, 64, 64)
    assert torch.equal(network(fine, context), network(fine, 255 - context))
    network(fine, context).square().mean().backward()
    assert network.context is not None
    assert all(bool((weight.grad != 0).any()) for weight in network.context.fits.parameters())  # type: ignore[union-attr]


def test_a_single_input_has_no_second_encoder() -> None:
    network = make(None, "add")
    assert not [name for name, _ in network.named_parameters() if name.startswith("context")]
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 4, 16, 16)


def test_add_is_the_sum() -> None:
    a, b, x = torch.rand(3, 1, 4, 5, 5)
    assert torch.equal(build_fusion("add", 4, 3)(a, b, x), a + b + x)


def test_concat_is_a_convolution_of_all() -> None:
    fusion = Concat(4, 3)
    a, b, x = torch.rand(3, 1, 4, 5, 5)
    assert torch.equal(fusion(a, b, x), fusion.reduce(torch.cat([a, b, x], 1)))


def test_attention_follows_the_equations_in_the_papers_order() -> None:
    """Reduced, a residual block, pooled, sigmoid, written with einsum."""
    torch.manual_seed(1)
    fusion = Attention(4, 3)
    a, b, x = torch.rand(3, 2, 4, 5, 5)

    def mix(conv: nn.Conv2d, values: Tensor) -> Tensor:
        assert conv.bias is not None
        return torch.einsum("oi,nihw->nohw", conv.weight[:, :, 0, 0], values) + conv.bias[:, None, None]

    reduced = mix(fusion.reduce, torch.cat([a, b, x], 1))
    first, second = fusion.residual[1], fusion.residual[3]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    weights = torch.sigmoid((reduced + mix(second, mix(first, reduced.relu()).relu())).mean((2, 3)))
    assert torch.allclose(fusion(a, b, x), a * weights[:, :, None, None] + x, atol=1e-6)
    coarsest = Attention(4, 2)
    assert coarsest(a, b, None).shape == a.shape
    assert (coarsest(a, b, None) < a).all()  # a weight of each channel below 1, and nothing added


def test_pooled_attention_sees_nothing_of_a_context_but_its_means() -> None:
    torch.manual_seed(1)
    fusion = AttentionPooled(4, 3)
    a, b, x = torch.rand(3, 2, 4, 5, 5)
    vectors = torch.cat([a.mean((2, 3)), b.mean((2, 3)), x.mean((2, 3))], 1)
    weights = torch.sigmoid(fusion.weigh(vectors))
    assert torch.allclose(fusion(a, b.mean((2, 3)), x), a * weights[:, :, None, None] + x, atol=1e-6)


@pytest.mark.parametrize(("x", "y", "share"), [(0.0, 0.0, 0.2), (0.8, 0.8, 0.2), (0.31, 0.07, 0.25), (0.0, 0.0, 1.0)])
def test_the_footprint_is_bilinear_sampling(x: float, y: float, share: float) -> None:
    features = torch.rand(1, 3, 8, 6)
    found = crop_footprint(features, torch.tensor([[x, y]]), share, torch.zeros(1, 1, 5, 7))
    columns, rows = ((start + share * (torch.arange(n) + 0.5) / n) * 2 - 1 for start, n in ((x, 7), (y, 5)))
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1)[None]
    wanted = F.grid_sample(features, grid, mode="bilinear", padding_mode="border", align_corners=False)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_a_footprint_lies_where_its_place_says() -> None:
    network = make("resnet18", "concat", footprint=0.25)
    assert network.context is not None
    fine, context = 255 * torch.rand(1, 3, 64, 64), 255 * torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        here, there = (network(fine, context, torch.tensor([[at, at]])) for at in (0.0, 0.75))
    assert not torch.allclose(here, there)


def test_frozen_encoders_keep_their_statistics_and_learn_their_scales() -> None:
    network = make("resnet18", "add").train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(255 * torch.rand(2, 3, 64, 64), 255 * torch.rand(2, 3, 64, 64)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    assert network.fine.encoder.bn1.weight.grad is not None  # type: ignore[union-attr]
    loose = make("resnet18", "add", frozen=False).train()
    mean = loose.fine.encoder.bn1.running_mean.clone()  # type: ignore[union-attr,operator]
    loose(255 * torch.rand(2, 3, 64, 64), 255 * torch.rand(2, 3, 64, 64))
    assert not torch.equal(loose.fine.encoder.bn1.running_mean, mean)  # type: ignore[union-attr,arg-type]


def test_an_encoder_that_does_not_learn_stays_as_it_starts() -> None:
    network = make("resnet18", "add", frozen=False, context_learns=False).train()
    assert network.context is not None
    before = {name: value.clone() for name, value in network.context.encoder.state_dict().items()}
    network(255 * torch.rand(2, 3, 64, 64), 255 * torch.rand(2, 3, 64, 64)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.context.encoder.state_dict().items())
    assert all(each.grad is None for each in network.context.encoder.parameters())


def test_simple_residual_blocks_are_linear() -> None:
    """The paper leaves out their batch norm and ReLU."""
    block = SimpleResidual(3, 8)
    a, b = torch.rand(2, 1, 3, 6, 6)
    assert torch.allclose(block(a + b), block(a) + block(b), atol=1e-5)
