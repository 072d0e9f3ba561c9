"""Students of bundles: what teachers say is learned, exported and served."""

import json
import shutil
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import small_bundle
import tifffile
import torch
from distilling import ALONE, CONFIG, command, copy_teacher, make_pair, make_seeing, stage
from msgspec.structs import replace

from glassrt.engine import open_bundle, score, segment_image
from glassrt.engine.errors import GlassError
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.slides.readers import open_slide
from glassrt.export.bundle import export_run
from glassrt.training import losses
from glassrt.training.commands.options import CONFIGS
from glassrt.training.config import as_toml, load_config
from glassrt.training.datasets import glas
from glassrt.training.methods import distil
from glassrt.training.methods.distil import DistilConfig
from glassrt.training.soft_maps import open_map
from glassrt.training.teachers import open_teachers


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_pair(tmp_path_factory.mktemp("teachers"))


def test_the_loss_is_the_divergence_at_a_temperature() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    soft = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64).softmax(1)
    weights = torch.rand(2, 4, 5, generator=generator, dtype=torch.float64)
    for temperature in (1.0, 2.0):
        powered = soft ** (1 / temperature)
        target = powered / powered.sum(1, keepdim=True)
        apart = (target * (target.log() - (logits / temperature).log_softmax(1))).sum(1)
        expected = temperature**2 * (apart * weights).sum() / weights.sum()
        assert torch.allclose(losses.distillation(logits, soft, weights, temperature), expected)
    sure = torch.zeros(1, 2, 1, 1).index_fill(1, torch.tensor([1]), 1.0)
    assert losses.distillation(torch.zeros(1, 2, 1, 1), sure, torch.ones(1, 1, 1)) == pytest.approx(np.log(2))
    assert losses.distillation(logits, soft, torch.zeros(2, 4, 5)) == 0
    assert torch.autograd.gradcheck(lambda given: losses.distillation(given, soft, weights, 2.0), logits)


def test_a_student_is_trained_through_kills_exported_and_served(
    pair: list[Path], painted: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, label_weight=0.5, contour_um=3.0)
    (tmp_path / "config.toml").write_text(as_toml(config))
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    taught = open_teachers(pair, None, None)
    distil.train(config, taught, distil.gather(config, taught, painted), straight, ALONE, stage)
    line = command(pair, broken, tmp_path / "config.toml", "--data", str(painted))
    for marker in ("maps/*.map", "state.safetensors"):
        with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while not [*broken.glob(marker)]:
                assert process.poll() is None, "the run ended before it was killed"
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    assert sorted(each.name for each in (broken / "maps").iterdir()) == sorted(
        each.name for each in (straight / "maps").iterdir()
    )
    for each in (straight / "maps").iterdir():
        assert (broken / "maps" / each.name).read_bytes() == each.read_bytes()
    bundle = export_run(straight, tmp_path / "student.glass", "student")
    again = export_run(broken, tmp_path / "again.glass", "again")
    manifest = bundle.segmentation
    assert [(each.name, each.sha256, each.scales, each.flips) for each in manifest.teachers] == [
        ("small", open_bundle(pair[0]).sha256, (0.75, 1.0), True),
        ("small", open_bundle(pair[1]).sha256, (1.0,), True),
    ]
    assert (manifest.mpp, manifest.contour_of, manifest.smallest_um2) == (0.5, "gland", 20.0)
    assert manifest.views == ((1.0,), False)
    assert "4 images of GlaS train, 4 masks" in manifest.trained
    assert manifest.licence.startswith("none Research only: trained on GlaS")
    with open_slide(painted / "testA_1.bmp", 0.5) as slide:
        score(slide, bundle, tmp_path / "result", tissue="all")
        with closing(open_backend(bundle)) as one, closing(open_backend(again)) as two:
            found = [segment_image(slide.pixels, 0.5, *each) for each in ((bundle, one), (again, two))]
    assert np.allclose(*found, atol=1e-4)
    assert json.loads((tmp_path / "result" / "regions.geojson").read_text())["type"] == "FeatureCollection"


def test_a_student_learns_what_its_teacher_says(painted: Path, tmp_path: Path) -> None:
    """Of a teacher that calls violet gland, from pictures alone and seen at half the resolution."""
    teacher = make_seeing(tmp_path / "teacher.glass")
    config = replace(CONFIG, mpp=1.0, steps=60, batch=4, average_decay=0.9, warmup_steps=5)
    taught = open_teachers([teacher], (1.0,), False)
    shutil.copytree(painted, tmp_path / "images", ignore=shutil.ignore_patterns("*_anno*", "testA*"))
    material = distil.gather(config, taught, images=tmp_path / "images", mpp=0.5)
    assert material.describe("a set") == "4 images"
    distil.train(config, taught, material, tmp_path / "run", ALONE, stage)
    student = export_run(tmp_path / "run", tmp_path / "s.glass", "s")
    assert student.manifest.mpp == 1.0
    assert (
        student.manifest.licence
        == "none The student's encoder started from EfficientNet-Lite0 ImageNet weights (Apache-2.0)."
    )
    with open_slide(painted / "testA_1.bmp", 0.5) as slide:
        said = []
        for bundle in (taught.bundles[0], student):
            with closing(open_backend(bundle, "ort")) as backend:
                said.append(segment_image(slide.pixels, 0.5, bundle, backend)[1] > 0.5)
    teacher_says = cv2.resize(said[0].view(np.uint8), said[1].shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    agreed = said[1] == teacher_says
    assert (agreed[teacher_says].mean() + agreed[~teacher_says].mean()) / 2 > 0.7  # of a constant: one half


def test_a_student_learns_from_tissue_on_slides(demo_slide: Path, tmp_path: Path) -> None:
    """Of tissue alone, as the engine maps it, and takes over what else the teacher's bundle asks for."""
    asks = {"slide_scores": {"of": "gland", "eta": 2.5}, "overlay": "heat"}
    plain = small_bundle.make_bundle(tmp_path / "plain.glass")
    teacher = copy_teacher(plain, tmp_path / "asks.glass", **asks)
    taught = open_teachers([teacher], (1.0,), False)
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "demo.svs").symlink_to(demo_slide)
    config = replace(CONFIG, steps=1)
    material = distil.gather(config, taught, slides=tmp_path / "slides")
    assert material.describe("a set") == "1 slides"
    distil.train(config, taught, material, tmp_path / "run", ALONE, stage)
    (path,) = (tmp_path / "run" / "maps").iterdir()
    soft = open_map(path)
    width, height = soft.about.size
    looked, gland, _ = soft.read(Box(0, 0, width, height))
    with open_slide(demo_slide) as slide:
        score(slide, taught.bundles[0], tmp_path / "result")
    served = tifffile.imread(tmp_path / "result" / "map.ome.tif")
    assert served.shape == (2, height, width)
    analysed = served[0] != 255
    assert 0.2 < analysed.mean() < 0.99
    assert np.array_equal(looked == 255, analysed)
    assert np.abs(served[1].astype(int) - gland)[analysed].max() <= 2  # that one in int8 where it is faster
    manifest = export_run(tmp_path / "run", tmp_path / "s.glass", "s").segmentation
    assert (manifest.slide_scores.of, manifest.overlay) == ("gland", "heat")


def test_a_run_belongs_to_its_teachers(pair: list[Path], painted: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=1)
    for number, paths in enumerate((pair, pair[:1])):
        taught = open_teachers(paths, None, None)
        material = distil.gather(config, taught, painted)
        if number:
            with pytest.raises(GlassError, match="other settings or data"):
                distil.train(config, taught, material, tmp_path, ALONE, stage)
        else:
            distil.train(config, taught, material, tmp_path, ALONE, stage)


def test_glas_is_the_labelled_set() -> None:
    assert load_config(CONFIGS / "distil_weak.toml", DistilConfig).mpp == 2 * glas.MPP
