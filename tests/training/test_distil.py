"""Students of bundles: what teachers say is learned, exported and served."""

import json
import shutil
import signal
import subprocess
import time
from collections import namedtuple
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
import small_bundle
import torch
from command_line import GLASSRT

from glassrt.engine import open_bundle, score, segment_image
from glassrt.engine.errors import GlassError, OutputError
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.slides.readers import open_slide
from glassrt.export.bundle import export_run
from glassrt.training import losses
from glassrt.training.commands.options import CONFIGS
from glassrt.training.config import as_toml, load_config
from glassrt.training.datasets import glas
from glassrt.training.methods import distil
from glassrt.training.methods.distil import DistilConfig
from glassrt.training.teachers import open_teachers
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))
CONFIG = msgspec.structs.replace(
    load_config(CONFIGS / "distil.toml", DistilConfig), crop=64, window=64, batch=2, steps=4, save_every=2
)


def stage(name: str, steps: int):
    return lambda step, loss: None


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two teachers that differ, with contours."""
    folder = tmp_path_factory.mktemp("teachers")
    first = small_bundle.make_bundle(folder / "one.glass", contours=True)
    shutil.copytree(first, folder / "two.glass")
    small_bundle.write_manifest(folder / "two.glass", small_bundle.read_manifest(first) | {"scales": [1.0]})
    return [first, folder / "two.glass"]


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


def command(pair: list[Path], out: Path, config: Path, *options: str) -> list[str]:
    named = [word for each in pair for word in ("--teacher", str(each))]
    return [str(GLASSRT), "train", "distil", *named, "--out", str(out), "--config", str(config), *options]


def test_a_student_is_trained_through_kills_exported_and_served(
    pair: list[Path], painted: Path, tmp_path: Path
) -> None:
    config = msgspec.structs.replace(CONFIG, label_weight=0.5, contour_um=3.0)
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
        assert (broken / "maps" / each.name).stat().st_size == each.stat().st_size
    bundle = export_run(straight, tmp_path / "student.glass", "student")
    again = export_run(broken, tmp_path / "again.glass", "again")
    manifest = bundle.segmentation
    assert [(each.name, each.sha256, each.scales, each.flips) for each in manifest.teachers] == [
        ("small", open_bundle(pair[0]).sha256, (0.75, 1.0), True),
        ("small", open_bundle(pair[1]).sha256, (1.0,), True),
    ]
    assert (manifest.mpp, manifest.contour_of, manifest.smallest_um2) == (0.5, "gland", 20.0)
    assert manifest.views == ((1.0,), False)
    assert "4 images, 4 masks" in manifest.trained
    with open_slide(painted / "testA_1.bmp", 0.5) as slide:
        score(slide, bundle, tmp_path / "result", tissue="all")
        with closing(open_backend(bundle)) as one, closing(open_backend(again)) as two:
            found = [segment_image(slide.pixels, 0.5, *each) for each in ((bundle, one), (again, two))]
    assert np.allclose(*found, atol=1e-4)
    assert json.loads((tmp_path / "result" / "regions.geojson").read_text())["type"] == "FeatureCollection"


def test_a_student_learns_what_its_teacher_says(painted: Path, tmp_path: Path) -> None:
    """Of a teacher that calls violet gland, from pictures alone and seen at half the resolution."""
    teacher = small_bundle.make_bundle(tmp_path / "teacher.glass")
    config = msgspec.structs.replace(CONFIG, mpp=1.0, steps=60, batch=4, average_decay=0.9, warmup_steps=5)
    taught = open_teachers([teacher], (1.0,), False)
    shutil.copytree(painted, tmp_path / "images", ignore=shutil.ignore_patterns("*_anno*", "testA*"))
    material = distil.gather(config, taught, images=tmp_path / "images", mpp=0.5)
    assert material.described == "4 images"
    distil.train(config, taught, material, tmp_path / "run", ALONE, stage)
    losses_seen = [float(row.split(",")[1]) for row in (tmp_path / "run/metrics.csv").read_text().splitlines()[1:]]
    assert np.mean(losses_seen[-10:]) < 0.5 * np.mean(losses_seen[:5])
    assert export_run(tmp_path / "run", tmp_path / "s.glass", "s").manifest.mpp == 1.0


def copy_teacher(of: Path, to: Path, **changes: object) -> Path:
    shutil.copytree(of, to)
    small_bundle.write_manifest(to, small_bundle.read_manifest(to) | changes)
    return to


def test_teachers_that_do_not_go_together_are_refused(pair: list[Path], tmp_path: Path) -> None:
    others = [{"name": "other", "color": [0, 0, 0]}, {"name": "tumour", "color": [1, 2, 3]}]
    plain = small_bundle.make_bundle(tmp_path / "plain.glass")
    cases = [
        (copy_teacher(pair[0], tmp_path / "coarse.glass", mpp=1.0), "is made for 1 micrometres per pixel, .* for 0.5"),
        (copy_teacher(plain, tmp_path / "tumour.glass", classes=others), "has the classes other, tumour, .* gland"),
        (plain, "has no contours, .* contours of gland"),
    ]
    for path, message in cases:
        with pytest.raises(GlassError, match=message):
            open_teachers([pair[0], path], None, None)


@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        ([], CONFIG, "nothing to learn from: name --data, --images or --slides"),
        (["--images", "{empty}"], CONFIG, "no images here"),
        (["--slides", "{empty}"], CONFIG, "no slides here"),
        (["--images", "{images}"], CONFIG, "--mpp"),
        (["--images", "{images}", "--mpp", "0.8"], CONFIG, "0.8 micrometres per pixel, and the teachers need 0.5"),
        ([], msgspec.structs.replace(CONFIG, label_weight=1.0), "label_weight is of labels"),
        (["--data", "{images}"], msgspec.structs.replace(CONFIG, label_weight=1.0), "set contour_um"),
        (["--scales", "0"], CONFIG, "--scales 0"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_a_line(
    options: list[str], config: DistilConfig, message: str, pair: list[Path], painted: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "config.toml").write_text(as_toml(config))
    words = [each.format(empty=tmp_path / "empty", images=painted) for each in options]
    line = command(pair, tmp_path / "run", tmp_path / "config.toml", *words)
    ended = subprocess.run(line, capture_output=True, text=True)
    assert ended.returncode == 2
    assert message in ended.stderr.replace("\n", " ")
    assert ended.stderr.startswith("glassrt: ")
    assert "Traceback" not in ended.stderr
    assert not [*(tmp_path / "run").rglob("*.map")]


def test_a_damaged_map_is_told_of(pair: list[Path], painted: Path, tmp_path: Path) -> None:
    taught = open_teachers(pair[:1], None, None)
    material = distil.gather(CONFIG, taught, painted)
    with pytest.raises(ZeroDivisionError):  # stopped once the maps are there
        distil.train(
            CONFIG, taught, material, tmp_path, ALONE, lambda name, steps: stage(name, 1 // (name != "student"))
        )
    file = sorted((tmp_path / "maps").iterdir())[0]
    whole = file.read_bytes()
    torn = whole[: len(whole) // 2], whole[:200] + bytes(40) + whole[240:], b"", b"no map at all"
    for content in torn:
        file.write_bytes(content)
        with pytest.raises(GlassError, match=r"\.map is damaged .* delete it, and the map is made anew"):
            distil.train(CONFIG, taught, material, tmp_path, ALONE, stage)
    shutil.copy(sorted((tmp_path / "maps").iterdir())[1], file)
    with pytest.raises(GlassError, match="another map than its name says"):
        distil.train(CONFIG, taught, material, tmp_path, ALONE, stage)
    file.unlink()
    distil.train(CONFIG, taught, material, tmp_path, ALONE, stage)
    assert file.read_bytes() == whole


def test_a_disk_too_small_for_the_maps_is_told_of_before_they_are_made(
    pair: list[Path], painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, 50_000))
    taught = open_teachers(pair, None, None)
    with pytest.raises(OutputError, match=r"maps may take 0.\d+ GB and 5e-05 GB are free"):
        distil.train(CONFIG, taught, distil.gather(CONFIG, taught, painted), tmp_path, ALONE, stage)
    assert not [*tmp_path.rglob("*.map")]


def test_a_run_belongs_to_its_teachers(pair: list[Path], painted: Path, tmp_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, steps=1)
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
