"""Distill-to-Label measured: baseline, teacher and student over folds, and over how many bags there are.

Everything is kept in one folder, so a stopped benchmark goes on where it was. All scores are the engine's.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from glassrt.benchmarks.machine import write_report
from glassrt.benchmarks.runs import score_once, spread
from glassrt.engine.runtimes.open import open_backend
from glassrt.export.bundle import export_run
from glassrt.training.bag_folds import FOLDS
from glassrt.training.config import Schedule
from glassrt.training.evaluate import evaluate
from glassrt.training.loop import Progress
from glassrt.training.methods import distill_to_label
from glassrt.training.methods.distill_to_label import STAGES, DistillConfig, FoldConfig, MnistConfig
from glassrt.training.methods.oeem import Stage
from glassrt.training.world import World

BAGS = (50, 100, 150, 200, 300, 400, 500)  # of digits, as the paper's Figure 2
SIZES = (10, 20)
SHOWN = {
    "crchisto": ("AUROC", "accuracy", "F1", "F1, threshold of validation", "attention AUROC", "effective share"),
    **dict.fromkeys(("ucsb", "features"), ("bag AUROC", "bag accuracy", "bag F1", "bag calibration error")),
}
# AUROC, accuracy and F1 of Table I.
PAPER = {"mil": "86 / 79 / 61", "teacher": "89 / 85 / 73", "student": "91 / 89 / 80"}


def measure_distill(
    config: DistillConfig, data: Path, folder: Path, seeds: int, world: World, stage: Stage, report_file: Path
) -> dict[str, Any]:
    """Train and score every stage on every fold, or with every number of digits' bags, with every seed.

    `report_file` is written anew after each run. Raises TrainingError, DatasetError or OutputError.
    """
    report: dict[str, Any] = {"dataset": config.dataset, "config": msgspec.to_builtins(config), "rows": []}
    for settings, name in lay_runs(config, seeds):
        bags = distill_to_label.load_bags(settings, data).train
        distill_to_label.train(settings, bags, folder / name, world, stage)
        for each in STAGES if world.leads else ():
            run = folder / name / each
            if getattr(settings, each) is not UNSET:
                scores = score_once(run, (), partial(score_run, run, settings, data, stage))
                report["rows"].append({"stage": each, **tell_run(settings), **scores})
        if world.leads:
            write_report(report_file, report)
        world.wait()
    return report


def lay_runs(base: DistillConfig, seeds: int) -> Iterator[tuple[DistillConfig, str]]:
    """Every fold, or number and size of bags, with every seed, and a folder's name."""
    for seed in range(1, seeds + 1):
        again = {
            each: msgspec.structs.replace(schedule, seed=seed)
            for each in STAGES
            if isinstance(schedule := getattr(base, each), Schedule)
        }
        if base.dataset != "mnist-bags":
            for fold in range(FOLDS):
                folds = FoldConfig(fold=fold, seed=seed)
                yield msgspec.structs.replace(base, folds=folds, **again), f"{base.dataset}-fold-{fold}-{seed}"
            continue
        for size in SIZES:
            for count in BAGS:
                bags = MnistConfig(bags=count, size=size, balanced=True, seed=seed)
                yield msgspec.structs.replace(base, mnist=bags, **again), f"mnist-{size}-{count}-{seed}"


def tell_run(settings: DistillConfig) -> dict[str, Any]:
    """What tells one run from another."""
    if settings.folds is not UNSET:
        return {"fold": settings.folds.fold, "seed": settings.folds.seed}
    assert settings.mnist is not UNSET
    return {"size": settings.mnist.size, "bags": settings.mnist.bags, "seed": settings.mnist.seed}


def score_run(run: Path, settings: DistillConfig, data: Path, stage: Stage) -> dict[str, Any]:
    """A stage's scores on the bags that its fold tests, or on a thousand bags of other digits."""
    bundle = export_run(run, run / "bundle.glass", run.name)
    told = tell_run(settings)
    split = f"{told['fold']}:{told['seed']}" if "fold" in told else f"{told['size']:.0f}:{told['seed']}"
    shown: list[Progress] = []

    def progress(done: int, total: int) -> None:
        if not shown:
            shown.append(stage(f"score {run.parent.name} {run.name}", total))
        shown[0](done - 1, math.nan)

    with closing(open_backend(bundle, throughput=True)) as backend:
        report = evaluate(bundle, backend, settings.dataset, data, split, progress)
    return dict(report["scores"])


def draw_table(report: dict[str, Any]) -> list[list[str]]:
    """Means and standard deviations over folds and seeds, and by how much each stage exceeds the one before, paired; of
    digits, the AUROC of bags by their number.
    """
    if report["dataset"] == "mnist-bags":
        return draw_curves(report["rows"])
    shown = SHOWN[report["dataset"]]
    table = [["", *(["paper's AUROC / accuracy / F1"] if shown[0] == "AUROC" else []), *shown, "above the one before"]]
    before: list[dict[str, Any]] = []
    for name in STAGES:
        rows = [row for row in report["rows"] if row["stage"] == name]
        if not rows:
            continue
        gains = [row[shown[0]] - other[shown[0]] for row, other in zip(rows, before, strict=False)]
        told = f"{statistics.fmean(gains):+.1f}, in {sum(gain > 0 for gain in gains)} of {len(gains)}" if gains else ""
        paper = [PAPER[name]] if shown[0] == "AUROC" else []
        table.append([name, *paper, *(spread([row[key] for row in rows]) for key in shown), told])
        before = rows
    return table


def draw_curves(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The bags' AUROC: a row for each size and stage, a column for each number of bags."""
    counts = sorted({row["bags"] for row in rows})
    table = [["AUROC of bags", *(str(count) for count in counts)]]
    for size in sorted({row["size"] for row in rows}):
        for name in STAGES:
            mine = [row for row in rows if (row["size"], row["stage"]) == (size, name)]
            if mine:
                cells = [spread([row["bag AUROC"] for row in mine if row["bags"] == count]) for count in counts]
                table.append([f"{name}, {size:g} digits", *cells])
    return table
