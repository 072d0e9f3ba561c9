"""Students of bundles: what teachers say is learned, exported and served."""

import json
import shutil
import signal
import subprocess
import time
from collections import namedtuple
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import small_bundle
import tifffile
import torch
from command_line import GLASSRT
from msgspec import UNSET
from msgspec.structs import replace

from glassrt.engine import open_bundle, score, segment_image
from glassrt.engine.errors import GlassError, OutputError, TrainingError
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
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))
CONFIG = replace(load_config(CONFIGS / "distil.toml", DistilConfig), crop=64, window=64, batch=2, steps=4, save_every=2)


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
    teacher = small_bundle.make_bundle(tmp_path / "teacher.glass")
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
    assert 0.1 < teacher_says.mean() < 0.9
    assert (said[1] == teacher_says).mean() > 0.8


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
        (["--images", "{pictures}"], CONFIG, "--mpp"),
        (["--images", "{pictures}", "--mpp", "0.8"], CONFIG, "0.8 micrometres per pixel, and the teachers need 0.5"),
        (["--slides", "{pictures}", "--mpp", "0.8"], CONFIG, "0.8 micrometres per pixel, and the teachers need 0.5"),
        ([], replace(CONFIG, label_weight=1.0), "label_weight is of labels"),
        (["--data", "{images}"], replace(CONFIG, label_weight=1.0), "set contour_um"),
        (["--scales", "0"], CONFIG, "--scales 0"),
        (["--images", "{images}/train_1.bmp", "--mpp", "0.5"], CONFIG, "train_1.bmp is no folder: name one that holds"),
        (["--slides", "{empty}/none"], CONFIG, "none is no folder: name one that holds slides"),
        (["--images", "{images}", "--mpp", "0.5"], CONFIG, "_anno.bmp is a mask of GlaS: name that set with --data"),
        (["--data", "{images}", "--mpp", "0.5"], CONFIG, "--mpp 0.5 is of --images or --slides"),
        (["--teacher", "{teacher}", "--data", "{images}"], CONFIG, "one.glass is named twice"),
        (["--data", "{images}"], replace(CONFIG, mpp=0.1), "0.62005 micrometres per pixel, and the student sees 0.1"),
        (
            ["--data", "{images}"],
            replace(CONFIG, student=replace(CONFIG.student, weights="{empty}", whole=True)),
            "whole",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_a_line(
    options: list[str], config: DistilConfig, message: str, pair: list[Path], painted: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "config.toml").write_text(as_toml(config))
    pictures = shutil.copytree(painted, tmp_path / "pictures", ignore=shutil.ignore_patterns("*_anno*"))
    named = {"empty": tmp_path / "empty", "images": painted, "pictures": pictures, "teacher": pair[0]}
    words = [each.format(**named) for each in options]
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
    config = replace(CONFIG, steps=1)
    for number, paths in enumerate((pair, pair[:1])):
        taught = open_teachers(paths, None, None)
        material = distil.gather(config, taught, painted)
        if number:
            with pytest.raises(GlassError, match="other settings or data"):
                distil.train(config, taught, material, tmp_path, ALONE, stage)
        else:
            distil.train(config, taught, material, tmp_path, ALONE, stage)


def test_what_cannot_begin_is_told_before_the_teachers_run(pair: list[Path], painted: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=1)
    taught, others = (open_teachers(paths, None, None) for paths in (pair[:1], pair[1:]))
    distil.train(config, taught, distil.gather(config, taught, painted), tmp_path, ALONE, stage)
    maps = {*(tmp_path / "maps").iterdir()}
    (tmp_path / "model.safetensors").rename(tmp_path / "state.safetensors")
    with pytest.raises(TrainingError, match=r"state\.safetensors was written with other settings or data"):
        distil.train(config, others, distil.gather(config, others, painted), tmp_path, ALONE, stage)
    assert {*(tmp_path / "maps").iterdir()} == maps
    wide = replace(config, student=replace(config.student, width=72))
    distil.train(wide, taught, distil.gather(wide, taught, painted), tmp_path / "wide", ALONE, stage)
    start = replace(config.student, weights=str(tmp_path / "wide" / "model.safetensors"), whole=True)
    config = replace(config, student=start)
    with pytest.raises(TrainingError, match="belongs to another network"):
        distil.train(config, taught, distil.gather(config, taught, painted), tmp_path / "other", ALONE, stage)
    assert not (tmp_path / "other").exists()


def test_settings_that_would_do_nothing_are_refused(pair: list[Path], painted: Path, tmp_path: Path) -> None:
    taught = open_teachers(pair[:1], None, None)
    with pytest.raises(TrainingError, match="disagreement is of several teachers"):
        distil.gather(replace(CONFIG, disagreement=0.5), taught, painted)
    text = as_toml(CONFIG)
    for changed, message in (
        ("contour_um = 3.0\n" + text, "contour_um is of labels: leave it out, or set label_weight"),
        (text + "[validation]\nevery = 2\n", r"leave out \[validation\]: there is no validation set"),
        ("temperature = 4.0\n" + text.replace("temperature = 1.0\n", ""), "temperature"),
        ("mpp = 30.0\n" + text, "mpp"),
    ):
        (tmp_path / "config.toml").write_text(changed)
        with pytest.raises(GlassError, match=message):
            load_config(tmp_path / "config.toml", DistilConfig)


def test_the_smallest_region_is_the_same_in_any_order_of_teachers(pair: list[Path], tmp_path: Path) -> None:
    finer = copy_teacher(pair[0], tmp_path / "finer.glass", smallest_um2=3.0)
    unsaid = small_bundle.read_manifest(pair[0])
    del unsaid["smallest_um2"]
    shutil.copytree(pair[0], tmp_path / "unsaid.glass")
    small_bundle.write_manifest(tmp_path / "unsaid.glass", unsaid)
    logit_um2 = (0.5 * 8) ** 2
    for paths, smallest in (
        ([pair[0], finer], 20.0),
        ([finer, tmp_path / "unsaid.glass"], logit_um2),
        ([tmp_path / "unsaid.glass"], UNSET),
    ):
        for order in (paths, paths[::-1]):
            assert open_teachers(order, None, None).smallest_um2 == smallest


def test_glas_is_the_labelled_set() -> None:
    assert load_config(CONFIGS / "distil_weak.toml", DistilConfig).mpp == 2 * glas.MPP
