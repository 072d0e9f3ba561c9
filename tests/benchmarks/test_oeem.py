"""The benchmark of OEEM: which runs it makes, and that a stopped one goes on."""

from pathlib import Path

import msgspec
import pytest
import torch

from glassrt.benchmarks import oeem as benchmark
from glassrt.training.commands.options import CONFIGS
from glassrt.training.config import load_config
from glassrt.training.methods.oeem import OeemConfig
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))
CONFIG = load_config(CONFIGS / "oeem_compact.toml", OeemConfig)


def test_every_row_runs_once_and_the_compared_ones_with_every_seed() -> None:
    runs = [(row.name, config.seed, config.loss, name) for row, config, name in benchmark.lay_runs(CONFIG.segment, 3)]
    assert len({name for *_, name in runs}) == len(runs) == len(benchmark.ROWS) + 2 * 2
    assert [seed for name, seed, *_ in runs if name == "l_norm"] == [1, 2, 3]
    assert {loss for _, _, loss, _ in runs} == {"cross_entropy", "ohem", "c_max", "c_diff", "l_norm", "lc_mix"}


@pytest.mark.slow
def test_a_second_call_trains_and_scores_nothing_again(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, short = msgspec.structs.replace, {"steps": 2, "batch": 2, "warmup_steps": 0, "weights": "random"}
    config = replace(
        CONFIG,
        classify=replace(CONFIG.classify, **short, side=48, stride=24, crop=48),
        cam=replace(CONFIG.cam, side=96, stride=64, scales=(1.0,)),
        segment=replace(CONFIG.segment, **short, crop=64, window=64),
    )
    monkeypatch.setattr(benchmark, "ROWS", benchmark.ROWS[:1])
    begun: list[str] = []

    def stage(name: str, steps: int) -> benchmark.Progress:
        begun.append(name)
        return lambda step, value: begun.append(f"{name} {step}")

    reports = [
        benchmark.measure_oeem(config, painted, tmp_path / "runs", 1, ALONE, stage, tmp_path / "report.json")
        for _ in range(2)
    ]
    assert reports[0] == reports[1]
    (row,) = reports[0]["rows"]
    assert {"scale 1", "multi-scale"} <= row.keys()
    assert begun.count("baseline-1, multi-scale") == 1
    assert begun.count("pseudo-masks") == 1
    assert begun.count("classify 1") == begun.count("baseline-1 1") == 1
    written = msgspec.json.decode((tmp_path / "report.json").read_bytes())
    assert written["rows"] == reports[0]["rows"]
    assert written["machine"]["cores"] > 0
