"""The benchmark of transfer: its starts, pairing and table, and that a stopped one goes on."""

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch
from made_voc import make_voc

from glassrt.benchmarks import transfer as benchmark
from glassrt.benchmarks.plots import plot_transfer
from glassrt.engine.errors import UsageError
from glassrt.training.loop import Progress
from glassrt.training.methods.transfer import Pretraining, TransferConfig
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
    monkeypatch.setattr(benchmark, "COUNTS", (2, 3))
    monkeypatch.setattr(benchmark, "TESTED", 4)
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
    plot_transfer(tmp_path / "curve.png", reports[0])
    assert cv2.imread(str(tmp_path / "curve.png")).shape == (540, 840, 3)


def test_starts_of_ones_own_are_named() -> None:
    assert benchmark.parse_start("GlaS=resnet18:a/b.safetensors") == ("GlaS", "resnet18", "a/b.safetensors")
    for wrong in ("GlaS", "GlaS=resnet18", "=resnet18:a", "GlaS=:a"):
        with pytest.raises(UsageError, match="is not NAME=ENCODER:FILE"):
            benchmark.parse_start(wrong)
    bare = msgspec.structs.replace(CONFIG, pretraining=msgspec.UNSET)
    with pytest.raises(UsageError, match=r"has no \[pretraining\]"):
        benchmark.lay_starts(bare, Path(), Path(), [], ALONE, lambda name, steps: lambda step, value: None)
