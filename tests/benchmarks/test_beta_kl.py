"""The benchmark of beta-KL: which runs it makes, and that a stopped one goes on."""

from pathlib import Path

import cv2
import msgspec
import pytest
import torch
from msgspec import UNSET
from painted_mosaic import CELL, paint_graded

from glassrt.benchmarks import beta_kl as benchmark
from glassrt.benchmarks import beta_maps
from glassrt.training.commands.options import CONFIGS
from glassrt.training.config import load_config
from glassrt.training.datasets import mosaic
from glassrt.training.loop import Progress
from glassrt.training.methods.beta_kl import BetaKlConfig
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))
CONFIG = load_config(CONFIGS / "beta_kl_compact.toml", BetaKlConfig)


def test_every_row_runs_with_every_seed() -> None:
    runs = list(benchmark.lay_runs(CONFIG, 5))
    assert len({name for *_, name in runs}) == len(runs) == sum(min(5, row.seeds) for row in benchmark.ROWS)
    assert {row.layout for row, config, _ in runs if config.seed == 5} == {"weak", "weak-disjoint"}
    assert {config.seed for _, config, _ in runs} == {1, 2, 3, 4, 5}
    shared = {
        (config.beta, config.noise, config.beta_rise_steps, config.alpha)
        for row, config, _ in runs
        if row.layout == "weak"
    }
    assert shared == {
        (beta, noise, rise, alpha)
        for alpha in (0.0, CONFIG.alpha)
        for beta, noise, rise in (
            ((0.0, 0.0), UNSET, 0), (UNSET, 0.33, 0), ((0.0, 1.0), UNSET, 0), ((0.0, 1.0), UNSET, CONFIG.steps // 4)
        )
    }  # fmt: skip


@pytest.mark.slow
def test_a_second_call_trains_and_scores_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "glas").mkdir()
    paint_graded(tmp_path / "glas")
    config = msgspec.structs.replace(
        CONFIG, encoder=UNSET, encoder_rate=1.0, patch=64, window=160, filters=4, batch=4, steps=4, renew_steps=2,
        warmup_steps=0,
    )  # fmt: skip
    monkeypatch.setattr(mosaic, "CELL", CELL)
    for name, value in {"ROWS": benchmark.ROWS[:2], "CELLS": 8, "SLIDES": {"train": 4, "test": 4}}.items():
        monkeypatch.setattr(benchmark, name, value)
    begun: list[str] = []

    def stage(name: str, steps: int) -> Progress:
        return lambda step, value: begun.append(f"{name} {step}")

    reports = [
        benchmark.measure_beta_kl(config, tmp_path, tmp_path / "runs", 1, ALONE, stage, tmp_path / "report.json")
        for _ in range(2)
    ]
    assert reports[0] == reports[1]
    assert begun.count("score KL-uniform-1 0") == begun.count("score KL-dynamic-1 0") == 1
    uniform, dynamic = reports[0]["rows"]
    assert uniform.keys() == dynamic.keys() >= {*benchmark.SHOWN}
    assert uniform["purity"] == pytest.approx(100 * benchmark.tell_purity(tmp_path / "runs/KL-uniform-1/metrics.csv"))
    assert msgspec.json.decode((tmp_path / "report.json").read_bytes())["rows"] == reports[0]["rows"]
    table = benchmark.draw_table(reports[0])
    assert [row[0] for row in table[1:]] == ["KL, uniform", "KL, dynamic"]
    assert table[2][-1] == f"{dynamic['pixel AUC'] - uniform['pixel AUC']:+.1f}"
    assert table[1][-1] == ""
    monkeypatch.setattr(beta_maps, "RUNS", {"KL": "KL-uniform-1"})
    beta_maps.draw_maps(tmp_path / "runs", tmp_path / "maps.jpg")
    picture = cv2.imread(str(tmp_path / "maps.jpg"))
    outlined = (picture[..., 1] > 130) & (picture[..., [0, 2]] < 60).all(-1)
    half = outlined.shape[1] // 2
    assert min(outlined[:, :half].sum(), outlined[:, half:].sum()) > 100
