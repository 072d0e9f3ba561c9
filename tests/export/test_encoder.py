"""Encoders with public weights as bundles, and slides embedded with them beside the loop of torch that others run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import assert_one_line, run
from made_tiffs import stained, write_pages
from torch import nn

from glassrt.benchmarks.embedding import measure_embedding
from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.bundles.kinds.encoder import Encoder
from glassrt.engine.errors import GlassError
from glassrt.engine.runtimes.open import open_backend
from glassrt.export.bundle import export_made
from glassrt.export.kinds.encoder import describe


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_pages(tmp_path / "slide.tif", [(stained(600, 300), {})])


@pytest.mark.slow
def test_features_are_those_of_torch_on_what_openslide_reads(slide: Path, tmp_path: Path) -> None:
    report = measure_embedding(slide, "efficientnet_lite0", "imagenet", 96, 1, tmp_path / "report.json")
    assert report["tiles"] == 7 * 4
    cosines = [row["lowest_cosine"] for row in report["rows"] if row["lowest_cosine"] is not None]
    assert len(cosines) >= 2
    assert min(cosines) > 0.9999
    assert (tmp_path / "report.json").is_file()


def test_the_command_writes_a_bundle_to_embed_with(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "lite0.glass"
    done = run("export-encoder", "efficientnet_lite0", "--out", out, "--mpp", 0.25, "--window", 64)
    assert done.returncode == 0, done.stderr
    manifest = open_bundle(out).manifest
    assert open_bundle(out).example_window is None  # it is painted
    assert isinstance(manifest, Encoder)
    assert (manifest.features, manifest.mpp, manifest.window, manifest.stride) == (320, 0.25, 64, 64)
    assert "Apache-2.0" in manifest.licence
    done = run("embed", slide, "--bundle", out, "--out", tmp_path / "features", "--tissue", "all", "--mpp", 0.25)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "features").rglob("slide.h5"))) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resnet50"], "no package ships ImageNet weights of resnet50: name a file of its weights"),
        (["vit"], "encoder 'vit' is not known; choose one of resnet38, resnet18"),
        (["resnet18", "--weights", "random"], "an encoder of random weights says nothing of tiles"),
        (["resnet18", "--weights", "absent.pth"], "absent.pth does not exist"),
    ],
)
def test_what_is_no_encoder_is_refused(words: list[str], said: str, tmp_path: Path) -> None:
    done = run("export-encoder", *words, "--out", tmp_path / "made.glass")
    assert_one_line(done, 2, said)
    assert not (tmp_path / "made.glass").exists()


class Means(nn.Module):
    """A network of one's own: the mean of each channel, and which is brightest."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean((2, 3))
        return torch.cat([means, means.amax(1, keepdim=True)], 1)


def test_any_network_can_be_a_bundle(tmp_path: Path) -> None:
    made = describe(Means(), 4, "means", 0.5, 32, "not at all", "free")
    bundle = export_made(made, "means", tmp_path / "means.glass")
    tiles = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), np.uint8)
    backend = open_backend(bundle, "ort")
    (features,) = backend.infer({"tile": tiles}).values()
    backend.close()
    means = tiles.mean((1, 2))
    assert features[0] == pytest.approx([*means[0], means.max()], rel=1e-5)


def test_a_network_of_other_lengths_is_refused(tmp_path: Path) -> None:
    made = describe(Means(), 5, "means", 0.5, 32, "not at all", "free")
    with pytest.raises(GlassError, match=r"means: the network gives features \[1, 4\], its bundle means \[1, 5\]"):
        export_made(made, "means", tmp_path / "means.glass")
    assert not (tmp_path / "means.glass").exists()
