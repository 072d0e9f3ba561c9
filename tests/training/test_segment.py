"""Supervised training on real images, short; and the weights and networks under it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from glassrt.engine.errors import GlassError, TrainingError
from glassrt.training import checkpoint
from glassrt.training.datasets import glas
from glassrt.training.methods import segment
from glassrt.training.networks.efficientnet_lite import EfficientNetLite, imagenet_weights
from glassrt.training.networks.pspnet import PSPNet, pooling_matrix, spreading_matrix

CONFIG = segment.load_config(Path(segment.__file__).parents[1] / "configs" / "segment.toml")
SHORT = msgspec.structs.replace(CONFIG, crop=64, batch=2, steps=6, warmup_steps=2, save_every=2)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_the_public_weights_load_by_name(output_stride: int) -> None:
    encoder = EfficientNetLite(output_stride=output_stride)
    weights = imagenet_weights()
    encoder.load_state_dict(weights, strict=True)
    assert torch.equal(
        encoder.state_dict()["_blocks.15._project_conv.weight"], weights["_blocks.15._project_conv.weight"]
    )


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_logits_come_at_the_output_stride(output_stride: int) -> None:
    network = PSPNet(3, output_stride=output_stride).eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 64, 128)).shape == (2, 3, 64 // output_stride, 128 // output_stride)


def test_dilation_keeps_what_stride_32_computes() -> None:
    """On a constant picture stride and dilation cannot differ: the padding apart, all cells are alike."""
    networks = [EfficientNetLite(output_stride=stride) for stride in (8, 32)]
    networks[1].load_state_dict(networks[0].state_dict())
    picture = torch.full((1, 3, 512, 512), 0.3)
    with torch.inference_mode():
        fine, coarse = (network.eval()(picture)[1] for network in networks)
    assert torch.allclose(fine[0, :, 32, 32], coarse[0, :, 8, 8], atol=1e-4)


@pytest.mark.parametrize(("height", "width", "grid"), [(20, 20, 3), (20, 20, 6), (7, 13, 6), (4, 4, 1)])
def test_pooling_as_a_matrix_is_adaptive_pooling(height: int, width: int, grid: int) -> None:
    values = torch.randn(2, 5, height, width)
    pooled = torch.nn.functional.adaptive_avg_pool2d(values, grid)
    assert torch.allclose(
        (values.flatten(2) @ pooling_matrix(height, width, grid)).unflatten(2, (grid, grid)), pooled, atol=1e-6
    )
    spread = torch.nn.functional.interpolate(pooled, (height, width), mode="bilinear", align_corners=False)
    assert torch.allclose(
        (pooled.flatten(2) @ spreading_matrix(height, width, grid)).unflatten(2, (height, width)), spread, atol=1e-6
    )


def test_augmented_masks_stay_on_their_glands(data: Path) -> None:
    """A picture painted as its own mask must still equal the mask after augmentation."""
    _, mask = segment.load_samples(data, "train")[0]
    painted = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
    for seed in range(8):
        random = np.random.default_rng(seed)
        pixels, labels = segment.augment((painted, mask), 256, random)
        known = labels != segment.IGNORE
        assert known.mean() > 0.3
        assert ((pixels[..., 1] > 127) == (labels == 1))[known].mean() > 0.97


def test_a_run_learns_and_resumes_exactly_after_a_kill(data: Path, tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    segment.train(SHORT, data, straight)
    (tmp_path / "short.toml").write_text(segment.as_toml(SHORT))
    glassrt = str(Path(sys.executable).with_name("glassrt"))
    command = [
        glassrt,
        "train",
        "segment",
        "--data",
        str(data),
        "--out",
        str(broken),
        "--config",
        str(tmp_path / "short.toml"),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not (broken / "state.safetensors").exists():
            assert process.poll() is None, "the run ended before it was killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (broken / "model.safetensors").exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    first, _ = checkpoint.load(straight / "model.safetensors")
    second, _ = checkpoint.load(broken / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name].float(), second[name].float(), atol=1e-5) for name in first)
    assert not (broken / "state.safetensors").exists()
    steps = [line.split(",")[0] for line in (broken / "metrics.csv").read_text().splitlines()]
    assert steps == ["step", *map(str, range(SHORT.steps))]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "missing required field"),
        (segment.as_toml(CONFIG) + "colour = 1", "unknown field `colour`"),
        (segment.as_toml(CONFIG).replace("batch = 8", 'batch = "8"'), r"at `\$\.batch`"),
        ("batch = [", r"c\.toml: "),
    ],
)
def test_a_malformed_configuration_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(TrainingError, match=says):
        segment.load_config(tmp_path / "c.toml")


def test_a_state_of_another_configuration_is_refused(data: Path, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "state.safetensors", {"network/x": torch.zeros(1)}, {"step": "1", "config": "{}"})
    with pytest.raises(TrainingError, match="another configuration"):
        segment.train(SHORT, data, tmp_path)


def test_a_loss_that_is_no_number_stops_the_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step"):
        segment.train(msgspec.structs.replace(SHORT, learning_rate=1e30, steps=40), data, tmp_path)


@pytest.mark.parametrize(("split", "says"), [("testC", "no split"), ("testB", r"no testB_\*\.bmp")])
def test_a_split_that_is_not_there_is_named(data: Path, split: str, says: str) -> None:
    if split == "testB" and list((data / "glas").glob("testB_*")):
        pytest.skip("this copy of GlaS has testB")
    with pytest.raises(GlassError, match=says):
        glas.find_images(data, split)


def test_glas_has_the_published_images(data: Path) -> None:
    assert len(glas.find_images(data, "train")) == 85
    assert [image.name for image in glas.find_images(data / "glas", "testA")] == [f"testA_{i}" for i in range(1, 61)]
