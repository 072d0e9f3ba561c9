"""Glands told apart by their contours: from the set's instance masks to a bundle that counts them."""

from contextlib import closing
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import DatasetError, TrainingError
from glassrt.engine.runtimes.open import open_backend
from glassrt.export.bundle import export_run
from glassrt.training import checkpoint, metrics
from glassrt.training.commands.options import CONFIGS
from glassrt.training.config import load_config
from glassrt.training.contours import mark_contours
from glassrt.training.datasets import glas
from glassrt.training.evaluate import evaluate
from glassrt.training.methods import segment
from glassrt.training.methods.segment import SegmentConfig, load_samples
from glassrt.training.networks.efficientnet_lite import packaged_weights
from glassrt.training.networks.encoders import read_weights
from glassrt.training.networks.fpn import FPN
from glassrt.training.networks.segmenter import Design
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))
CONFIG = msgspec.structs.replace(
    load_config(CONFIGS / "segment.toml", SegmentConfig),
    network="fpn", encoder="efficientnet_lite0", output_stride=4, width=16, contour_um=3.0, smallest_um2=30.0,
    crop=64, window=64, batch=4, steps=150, warmup_steps=5, average_decay=0.95, learning_rate=2e-3,
    loss="cross_entropy",
)  # fmt: skip


def touching() -> np.ndarray:
    """Two glands that share an edge, one at the border."""
    instances = np.zeros((40, 60), np.uint8)
    instances[10:30, 20:40] = 1
    instances[10:30, 40:60] = 2
    return instances


def test_contours_lie_within_their_gland_on_every_side_but_the_images() -> None:
    marked = mark_contours(touching(), 3)
    assert np.array_equal(marked > 0, touching() > 0)
    for left in (20, 40):
        inside = np.zeros((40, 60), bool)
        inside[13:27, left + 3 : 37 if left == 20 else 60] = True
        part = np.zeros_like(inside)
        part[10:30, left : left + 20] = True
        assert np.array_equal((marked == 1) & part, inside)


def test_a_gland_thinner_than_two_contours_is_contour_alone() -> None:
    instances = np.zeros((20, 20), np.uint8)
    instances[4:8, 2:18] = 7
    assert set(np.unique(mark_contours(instances, 3))) == {0, 2}


def test_samples_at_another_resolution_keep_their_shares(painted: Path) -> None:
    fine, coarse = load_samples(painted, "train"), load_samples(painted, "train", mpp=2 * glas.MPP, contour_um=4.0)
    for one, other in zip(fine, coarse, strict=True):
        assert other.pixels.shape == (75, 90, 3)
        means = one.pixels.reshape(75, 2, 90, 2, 3).mean(axis=(1, 3))
        assert np.abs(other.pixels - means).max() <= 1
        assert (other.mask > 0).mean() == pytest.approx((one.mask > 0).mean(), abs=0.01)
        assert set(np.unique(other.mask)) == {0, 1, 2}


def test_masks_without_instances_have_no_contours(painted: Path) -> None:
    with pytest.raises(DatasetError, match="do not tell glands apart: leave contour_um out"):
        load_samples(painted, "train", painted, contour_um=3.0)


@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "resnet18"])
def test_an_fpn_gives_logits_at_its_stride(stride: int, encoder: str) -> None:
    network = FPN(3, encoder, stride, 24)
    pixels = torch.zeros(2, 3, 64, 96)
    with torch.inference_mode():
        assert network.eval()(pixels).shape == (2, 3, 64 // stride, 96 // stride)
        logits, auxiliary = network.train()(pixels)
    assert logits.shape == (2, 3, 64 // stride, 96 // stride)
    assert auxiliary.shape == (2, 3, 2, 3)
    assert len(network.merges) == {4: 3, 8: 2, 16: 1}[stride]


def test_an_fpns_finest_map_reaches_its_logits() -> None:
    """A change of a few pixels moves logits there more than anywhere else."""
    torch.manual_seed(0)
    network = FPN(2, "efficientnet_lite0", 4, 32).eval()
    pixels = torch.full((1, 3, 128, 128), 128.0)
    changed = pixels.clone()
    changed[:, :, 40:48, 80:88] = 0
    with torch.inference_mode():
        moved = (network(changed) - network(pixels)).abs().sum(1)[0]
    row, column = divmod(int(moved.argmax()), 32)
    assert abs(row - 10.5) <= 3
    assert abs(column - 20.5) <= 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "fpn", "output_stride": 32}, "output_stride 32: the network FPN runs at 4, 8, 16"),
        ({"network": "pspnet", "output_stride": 4, "width": msgspec.UNSET}, "PSPNet runs at 8, 16, 32"),
        ({"network": "pspnet", "output_stride": 8}, "width is of an FPN's maps"),
        ({"encoder": "resnet38", "weights": "random"}, "resnet38 runs at 8"),
        ({"encoder": "resnet18"}, "no package ships ImageNet weights of resnet18"),
    ],
)
def test_networks_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    design = Design(network="fpn", encoder="efficientnet_lite0", output_stride=4, width=64)
    with pytest.raises(TrainingError, match=message):
        msgspec.structs.replace(design, **change).check()


@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "efficientnet_lite2"])
def test_packaged_weights_are_those_of_their_encoder(encoder: str) -> None:
    design = Design(network="fpn", encoder=encoder, output_stride=8)
    network, stored = design.start(2), read_weights(packaged_weights(encoder))
    mine = network.encoder.state_dict()
    assert len(mine) > 200
    assert all(torch.equal(value, stored[name]) for name, value in mine.items())


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    """A set of glands that touch in pairs, dark at their edges, and the bundle of a network that learned it."""
    folder = tmp_path_factory.mktemp("touching")
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("testA", 3)):
        for number in range(1, count + 1):
            mask = np.zeros((160, 160), np.uint8)
            for pair, (x, y) in enumerate(((40, 40), (40, 110), (110, 75)), start=1):
                x, y = x + random.integers(-6, 7), y + random.integers(-6, 7)
                cv2.circle(mask, (int(x), int(y - 14)), 17, 2 * pair - 1, -1)
                cv2.circle(mask, (int(x), int(y + 14)), 17, 2 * pair, -1)
            edges = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
            colours = np.where(mask[..., None] > 0, (150, 90, 140), (200, 160, 225))
            pixels = np.where(edges[..., None], (90, 20, 60), colours) + random.normal(0, 8, (160, 160, 3))
            cv2.imwrite(str(folder / f"{split}_{number}.bmp"), np.clip(pixels, 0, 255).astype(np.uint8))
            cv2.imwrite(str(folder / f"{split}_{number}_anno.bmp"), mask)
    samples = load_samples(folder, "train", contour_um=3.0)
    segment.train(CONFIG, samples, folder / "run", ALONE)
    return folder, export_run(folder / "run", folder / "counting.glass", "counting")


def test_a_network_may_start_from_a_whole_run(counting: tuple[Path, Bundle]) -> None:
    model = counting[0] / "run" / "model.safetensors"
    design = msgspec.structs.replace(CONFIG.design, weights=str(model), whole=True)
    design.check()
    stored = checkpoint.load(model)[0]
    assert all(torch.equal(value, stored[name]) for name, value in design.start(3).state_dict().items())
    with pytest.raises(TrainingError, match="belongs to another network"):
        msgspec.structs.replace(design, width=24).start(3)
    with pytest.raises(TrainingError, match="'imagenet' is no model of a run"):
        msgspec.structs.replace(design, weights="imagenet").check()


def test_a_bundle_counts_glands_that_touch(counting: tuple[Path, Bundle]) -> None:
    folder, bundle = counting
    manifest = bundle.segmentation
    assert (manifest.contour_of, manifest.smallest_um2, manifest.planes) == ("gland", 30.0, 3)
    assert manifest.trained.startswith("FPN on efficientnet_lite0")
    with closing(open_backend(bundle)) as backend:
        scores = evaluate(bundle, backend, "glas", folder)["scores"]
    together = np.zeros(3, np.int64)
    for image in glas.find_images(folder, "testA"):
        truth = image.instances()
        together += metrics.object_counts(truth, metrics.find_objects(truth > 0))
    assert scores["mIoU"] > 90
    assert scores["object F1"] > 90 > 100 * metrics.object_f1(together)
