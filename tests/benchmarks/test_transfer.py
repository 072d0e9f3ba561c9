"""The benchmark of transfer: its starts, pairing and table, and that a stopped one goes on."""

import json
import shutil
from pathlib import Path

import cv2
import made_crchisto
import msgspec
import numpy as np
import pytest
import torch
from made_voc import make_voc

from glassrt.benchmarks import transfer as benchmark
from glassrt.benchmarks import transfer_cells
from glassrt.benchmarks.plots import plot_transfer
from glassrt.engine.errors import DatasetError, TrainingError, UsageError
from glassrt.training import checkpoint
from glassrt.training.datasets import crchisto
from glassrt.training.loop import Progress
from glassrt.training.methods.transfer import Pretraining, TransferConfig, build_network
from glassrt.training.patch_sets import load_patches
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))
SCHEDULE = {"batch": 2, "steps": 1, "optimiser": "adam", "learning_rate": 1e-3, "weight_decay": 0.0}
CONFIG = TransferConfig(
    dataset="folders", mpp=0.5, window=32, colour="none", encoder="resnet18", weights="random", **SCHEDULE,
    pretraining=Pretraining(task="segmentation", crop=32, resize=(1.0, 1.0), **SCHEDULE),
)  # fmt: skip


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    random = np.random.default_rng(3)
    for split in ("train", "test"):
        for at, name in enumerate(("a", "b")):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for number in range(4):
                pixels = random.integers(60, 120, (32, 32, 3)).astype(np.uint8)
                pixels[..., at] += 100
                cv2.imwrite(str(tmp_path / "set" / split / name / f"{number}.png"), pixels)
    return tmp_path / "set"


@pytest.mark.slow
def test_a_second_call_measures_nothing_again(patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "FEW", (2, 3))
    natural, out = make_voc(tmp_path / "voc"), tmp_path / "runs"
    trained: list[str] = []
    train = benchmark.transfer.train

    def count(config: TransferConfig, *others: object) -> None:
        trained.append(f"{config.encoder} {config.examples} {config.subset} {config.seed}")
        train(config, *others)

    def stage(name: str, steps: int) -> Progress:
        return lambda step, value: None

    monkeypatch.setattr(benchmark.transfer, "train", count)
    own = [benchmark.Start("own", "resnet18", str(out / "pretraining-segmentation" / "model.safetensors"))]
    reports = [
        benchmark.measure_transfer(CONFIG, patches, natural, out, own, 1, ALONE, stage, tmp_path / "report.json")
        for _ in range(2)
    ]
    assert reports[0] == reports[1]
    assert len(trained) == 6 * 2
    rows = reports[0]["rows"]
    assert len(rows) == 6 * 2
    # The own start is the one from VOC: the same subset, seed and weights give the same scores.
    by = {(row["start"], row["examples"], row["repeat"]): row for row in rows}
    for few in (2, 3):
        own_row, voc_row = by["own", few, 1], by["VOC segmentation", few, 1]
        assert {**own_row, "start": ""} == {**voc_row, "start": ""}
    assert not list((out / "cells").glob("run*"))
    assert {*reports[0]["pre-training"]} == {"classification", "segmentation"}
    head, *table = benchmark.draw_table(reports[0])
    assert [row[0] for row in table][:3] == ["random", "VOC classification", "VOC segmentation"]
    assert {len(row) for row in table} == {len(head)}
    gains = [by["own", few, 1]["accuracy"] - by["random", few, 1]["accuracy"] for few in (2, 3)]
    assert dict(zip([row[0] for row in table], table, strict=True))["own"][3].startswith(f"{np.mean(gains):+.1f}, in ")
    for path in (patches / "train" / "a").iterdir():  # the same names and numbers, but other pixels
        cv2.imwrite(str(path), cv2.imread(str(path)) + np.uint8(1))
    asked = CONFIG, patches, natural, out, [], 1, ALONE, stage, tmp_path / "report.json"
    alone = benchmark.measure_transfer(*asked)
    assert len(trained) == 6 * 2 + 5 * 2
    before = identities(out)
    shutil.rmtree(out / "cells")
    pooled = benchmark.measure_transfer(*asked, processes=2)
    assert len(trained) == 6 * 2 + 5 * 2  # others trained them
    assert {name: of for name, of in before.items() if not name.startswith("own")} == identities(out)
    told = ("start", "encoder", "examples", "repeat")
    assert [[row[each] for each in told] for row in pooled["rows"]] == [
        [row[each] for each in told] for row in alone["rows"]
    ]
    plot_transfer(tmp_path / "curve.png", reports[0])
    assert cv2.imread(str(tmp_path / "curve.png")).shape == (540, 840, 3)


def identities(out: Path) -> dict[str, str]:
    """What each cell was of: its patches, settings and weights."""
    return {file.name: json.loads(file.read_bytes())["of"] for file in (out / "cells").glob("*.json")}


def test_starts_of_ones_own_are_named() -> None:
    assert benchmark.parse_start("GlaS=resnet18:a/b.safetensors") == ("GlaS", "resnet18", "a/b.safetensors")
    for wrong in ("GlaS", "GlaS=resnet18", "=resnet18:a", "GlaS=:a"):
        with pytest.raises(UsageError, match="is not NAME=ENCODER:FILE"):
            benchmark.parse_start(wrong)
    bare = msgspec.structs.replace(CONFIG, pretraining=msgspec.UNSET)
    with pytest.raises(UsageError, match=r"has no \[pretraining\]"):
        benchmark.lay_starts(bare, Path(), [])
    with pytest.raises(UsageError, match="--start random: another start has this name"):
        benchmark.lay_starts(CONFIG, Path(), [benchmark.Start("random", "resnet18", "random")])


def measure(config: TransferConfig, patches: Path, tmp_path: Path, *others: benchmark.Start) -> None:
    benchmark.measure_transfer(
        config, patches, tmp_path / "voc", tmp_path / "runs", others, 1, ALONE,
        lambda name, steps: pytest.fail(f"{name} began"), tmp_path / "report.json",
    )  # fmt: skip


def test_what_cannot_be_measured_is_refused_before_anything_is_trained(
    patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DatasetError, match="the split train has 4 patches of a, not 50"):
        measure(CONFIG, patches, tmp_path)
    monkeypatch.setattr(benchmark, "FEW", (2, 3))
    with pytest.raises(DatasetError, match="the split test holds what is tested"):
        measure(msgspec.structs.replace(CONFIG, split="test"), patches, tmp_path)
    with pytest.raises(TrainingError, match="encoder 'vgg' is not known"):
        measure(CONFIG, patches, tmp_path, benchmark.Start("own", "vgg", "random"))
    with pytest.raises(TrainingError, match="absent does not exist"):
        measure(CONFIG, patches, tmp_path, benchmark.Start("own", "resnet18", "absent"))
    with pytest.raises(DatasetError, match="no JPEGImages here"):
        measure(CONFIG, patches, tmp_path)
    cv2.imwrite(str(patches / "test" / "a" / "0.png"), np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(DatasetError, match="patches of train and of test have other sizes"):
        measure(CONFIG, patches, tmp_path)
    (patches / "test" / "b").rename(patches / "test" / "c")
    with pytest.raises(DatasetError, match="train has the classes a, b, test has a, c"):
        measure(CONFIG, patches, tmp_path)


def test_a_start_that_knows_what_is_tested_is_refused(tmp_path: Path) -> None:
    for number in range(1, 6):
        made_crchisto.make_image(tmp_path / "set", number, **{kind: [[30.0, 20.0]] for kind in crchisto.KINDS})
    config = msgspec.structs.replace(CONFIG, dataset="nuclei", mpp=msgspec.UNSET)
    network = build_network(config, 4)
    file = tmp_path / "model.safetensors"
    for known, refused in ((["img1"], False), (["img1", "img5"], True)):
        checkpoint.save(file, network.state_dict(), {"method": "transfer", "learned_from": json.dumps(known)})
        learned = load_patches(msgspec.structs.replace(config, examples=1), tmp_path / "set")
        truth = transfer_cells.find_test(config, learned, tmp_path / "set")
        start = benchmark.Start("own", "resnet18", str(file))
        if not refused:
            benchmark.check_start(config, start, truth)
            continue
        with pytest.raises(UsageError, match="--start own: it learned from img5, which is tested"):
            benchmark.check_start(config, start, truth)


def test_the_table_shows_what_the_paper_has_of_the_same_set() -> None:
    rows = [
        {"start": name, "encoder": encoder, "examples": count, "repeat": repeat, "accuracy": 50.0 + gain + repeat,
         "linear probe": 1.0, "nearest neighbours": 2.0}
        for name, encoder, gain in (("random", "resnet18", 0), ("VOC segmentation", "resnet18", 4))
        for count in (12, 25) for repeat in (1, 2)
    ]  # fmt: skip
    head, plain, learned = benchmark.draw_table({"config": {"dataset": "kather"}, "rows": rows})
    assert (head[-1], plain[-1], learned[-1]) == ("paper", "61.6 / 64.1 / 77.3", "67.3 / 73.3 / 81.4")
    assert (plain[1], learned[1], learned[3]) == ("51.5 ± 0.7", "55.5 ± 0.7", "+4.0, in 4 of 4")
    assert benchmark.draw_table({"config": {"dataset": "nuclei"}, "rows": rows})[0][-1] != "paper"
