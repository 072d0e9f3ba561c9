"""Teachers, maps, material and settings that no student can be trained with."""

import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest
import small_bundle
from distilling import ALONE, CONFIG, command, copy_teacher, make_pair, stage
from msgspec import UNSET
from msgspec.structs import replace

from glassrt.engine.errors import GlassError, OutputError, TrainingError
from glassrt.training.config import as_toml, load_config
from glassrt.training.methods import distil
from glassrt.training.methods.distil import DistilConfig
from glassrt.training.teachers import open_teachers


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_pair(tmp_path_factory.mktemp("teachers"))


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
        (["--images", "{images}", "--mpp", "0.5"], CONFIG, "_anno.bmp looks like a mask of GlaS: name that set"),
        (["--data", "{images}", "--mpp", "0.5"], CONFIG, "--mpp 0.5 is of --images or --slides"),
        (["--teacher", "{teacher}", "--data", "{images}"], CONFIG, "one.glass is a bundle that was named before"),
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
