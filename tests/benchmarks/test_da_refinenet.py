"""The benchmark of DA-RefineNet: which runs it makes, and that a stopped one goes on."""

from pathlib import Path

import msgspec
import pytest
import torch
from painted_mosaic import CELL, CELLS, paint_graded
from small_encoder import shrink_resnet18

from glassrt.benchmarks import da_refinenet as benchmark
from glassrt.training.commands.options import CONFIGS
from glassrt.training.config import load_config
from glassrt.training.datasets import mosaic
from glassrt.training.methods.da_refinenet import DaRefineNetConfig
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))
CONFIG = load_config(CONFIGS / "da_refinenet_compact.toml", DaRefineNetConfig)


def test_every_row_runs_with_every_seed() -> None:
    runs = list(benchmark.lay_runs(CONFIG, 3))
    assert len({name for *_, name in runs}) == len(runs) == 3 * len(benchmark.ROWS)
    assert {config.fusion for _, config, _ in runs} == {"add", "concat", "attention", "attention_pooled"}
    assert {config.context for _, config, _ in runs} == {"none", "surroundings", "same"}
    assert {config.align for _, config, _ in runs} == {"none", "footprint"}
    assert {row.layout for row, *_ in runs} == {"coherent", "random"}


@pytest.mark.slow
def test_a_second_call_trains_and_scores_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "glas").mkdir()
    paint_graded(tmp_path / "glas")
    config = msgspec.structs.replace(
        CONFIG, window=32, windows=2, context_window=32, batch=2, steps=2, warmup_steps=0, widths=(8, 8),
        encoder="resnet18", context_encoder="resnet18", weights="random", context_weights="random",
    )  # fmt: skip
    shrink_resnet18(monkeypatch)
    monkeypatch.setattr(mosaic, "CELL", CELL)
    for name, value in {"ROWS": benchmark.ROWS[:2], "CELLS": CELLS, "SLIDES": {"train": 1, "test": 1}}.items():
        monkeypatch.setattr(benchmark, name, value)
    begun: list[str] = []

    def stage(name: str, steps: int) -> benchmark.Progress:
        return lambda step, value: begun.append(f"{name} {step}")

    reports = [
        benchmark.measure_da_refinenet(config, tmp_path, tmp_path / "runs", 1, ALONE, stage, tmp_path / "report.json")
        for _ in range(2)
    ]
    assert reports[0] == reports[1]
    single, dual = reports[0]["rows"]
    assert single["parameters"] < dual["parameters"]
    assert {"mIoU", "accuracy", "score", "IoU healthy", "mIoU, train images"} <= single.keys()
    assert dual.keys() - single.keys() == {"mIoU, centre", "mIoU of 3, centre"}
    assert begun.count("single-input-1 1") == begun.count("score dual-attention-pooled-1, centre 0") == 1
    assert msgspec.json.decode((tmp_path / "report.json").read_bytes())["rows"] == reports[0]["rows"]
    drawn = benchmark.draw_table(reports[0])
    assert [row[0] for row in drawn[1:]] == ["single input", "dual, attention pooled"]
    assert {len(row) for row in drawn} == {len(drawn[0])}
