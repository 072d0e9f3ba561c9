"""The benchmark of Distill-to-Label: which runs it makes, and that a stopped one goes on."""

from pathlib import Path

import msgspec
import pytest
import torch

from glassrt.benchmarks import distill as benchmark
from glassrt.training.commands.options import CONFIGS
from glassrt.training.config import load_config
from glassrt.training.loop import Progress
from glassrt.training.methods.distill_to_label import STAGES, DistillConfig
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))
COLON = load_config(CONFIGS / "distill_crchisto.toml", DistillConfig)
DIGITS = load_config(CONFIGS / "distill_mnist.toml", DistillConfig)


def test_every_fold_and_every_number_of_bags_runs_with_every_seed() -> None:
    folds = list(benchmark.lay_runs(COLON, 2))
    assert len({name for _, name in folds}) == len(folds) == 10
    assert {(config.folds.fold, config.folds.seed, config.student.seed) for config, _ in folds} == {  # type: ignore[union-attr]
        (fold, seed, seed) for fold in range(5) for seed in (1, 2)
    }
    digits = list(benchmark.lay_runs(DIGITS, 5))
    assert len({name for _, name in digits}) == len(digits) == 5 * 2 * 7
    assert {config.mnist.bags for config, _ in digits} == {50, 100, 150, 200, 300, 400, 500}  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_second_call_trains_and_scores_nothing_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "FOLDS", 1)
    short = {name: msgspec.structs.replace(getattr(COLON, name), steps=2) for name in STAGES}
    config = msgspec.structs.replace(COLON, most_instances=8, **short)
    begun: list[str] = []

    def stage(name: str, steps: int) -> Progress:
        return lambda step, value: begun.append(f"{name} {step}")

    reports = [
        benchmark.measure_distill(config, data, tmp_path / "runs", 1, ALONE, stage, tmp_path / "report.json")
        for _ in range(2)
    ]
    assert reports[0] == reports[1]
    assert [row["stage"] for row in reports[0]["rows"]] == [*STAGES]
    assert [begun.count(f"score crchisto-fold-0-1 {name} 0") for name in STAGES] == [1, 1, 1]
    assert msgspec.json.decode((tmp_path / "report.json").read_bytes())["rows"] == reports[0]["rows"]
    head, *rows = benchmark.draw_table(reports[0])
    assert [row[0] for row in rows] == [*STAGES]
    assert {len(row) for row in rows} == {len(head)}
    first, second, _ = reports[0]["rows"]
    assert rows[1][-1].startswith(f"{second['AUROC'] - first['AUROC']:+.1f}, in ")


def test_curves_have_a_column_for_each_number_of_bags() -> None:
    rows = [
        {"stage": stage, "size": 10.0, "bags": bags, "seed": seed, "bag AUROC": 50 + bags / 10 + seed}
        for stage in ("mil", "teacher") for bags in (50, 100) for seed in (1, 3)
    ]  # fmt: skip
    drawn = benchmark.draw_table({"dataset": "mnist-bags", "rows": rows})
    assert drawn[0] == ["AUROC of bags", "50", "100"]
    assert drawn[1] == ["mil, 10 digits", "57.0 ± 1.4", "62.0 ± 1.4"]
    assert [row[0] for row in drawn[1:]] == ["mil, 10 digits", "teacher, 10 digits"]
