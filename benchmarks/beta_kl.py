"""Beta-KL measured on weak mosaics: which divergence bears wrong labels, and what it is worth to look where disease is
suspected.

Everything is kept in one folder, so a stopped benchmark goes on where it was. All scores are the engine's.
"""

import csv
import math
import statistics
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from glassrt.benchmarks.machine import write_report
from glassrt.benchmarks.runs import lay_once, score_once, spread
from glassrt.engine.runtimes.open import open_backend
from glassrt.export.bundle import export_run
from glassrt.training.datasets import weak_mosaic
from glassrt.training.evaluate import evaluate
from glassrt.training.methods import beta_kl
from glassrt.training.methods.beta_kl import BetaKlConfig
from glassrt.training.methods.oeem import Stage
from glassrt.training.world import World

SLIDES = {"train": 24, "test": 48}
CELLS = 8  # images along a slide's side
RISE = 0.25  # of the steps, over which beta rises from Kullback-Leibler's
LAST = 0.25  # of the steps, whose patches purity is told of
PLAIN = "KL, uniform"  # the row, on slides of any layout, that others are told beside
SHOWN = ("slide AUC", "pixel AUC", "IoU malign", "FROC", "purity")


class Row(NamedTuple):
    """One row of the table: a divergence, how patches are drawn, how slides are made, and the most seeds it has."""

    name: str
    changes: dict[str, Any]
    layout: str = "weak"
    seeds: int = 1000


DIVERGENCES: dict[str, dict[str, Any]] = {
    "KL": {"beta": (0.0, 0.0), "noise": UNSET, "beta_rise_steps": 0},
    "beta .61": {"beta": UNSET, "noise": 0.33, "beta_rise_steps": 0},
    "beta 1": {"beta": (0.0, 1.0), "noise": UNSET, "beta_rise_steps": 0},
    "beta rising to 1": {"beta": (0.0, 1.0), "noise": UNSET},
}
DRAWN: dict[str, dict[str, Any]] = {"uniform": {"alpha": 0.0}, "dynamic": {}}
ROWS = (
    *(Row(f"{name}, {drawn}", change | DRAWN[drawn]) for name, change in DIVERGENCES.items() for drawn in DRAWN),
    Row("KL, uniform, disjoint pools", DIVERGENCES["KL"] | DRAWN["uniform"], "weak-disjoint"),
    Row("beta rising to 1, dynamic, disjoint pools", DIVERGENCES["beta rising to 1"], "weak-disjoint"),
    *(
        Row(f"{name}, {drawn}, small lesions", DIVERGENCES[name] | DRAWN[drawn], "weak-small", 3)
        for name, drawn in (("KL", "uniform"), ("beta rising to 1", "uniform"), ("beta rising to 1", "dynamic"))
    ),
)


def measure_beta_kl(
    config: BetaKlConfig, data: Path, folder: Path, seeds: int, world: World, stage: Stage, report_file: Path
) -> dict[str, Any]:
    """Train and score every row with every seed, on mosaics of the GlaS images in `data` that the seed lays too.

    `report_file` is written anew after each run. Raises TrainingError, DatasetError or OutputError.
    """
    report: dict[str, Any] = {
        "config": msgspec.to_builtins(config),
        "mosaics": {"slides": SLIDES, "images_a_side": CELLS},
        "rows": [],
    }
    for row, settings, name in lay_runs(config, seeds):
        scores = measure_run(row, settings, data, folder / name, world, stage)
        if world.leads:
            report["rows"].append({"row": row.name, "layout": row.layout, "seed": settings.seed, **scores})
            write_report(report_file, report)
        world.wait()
    return report


def lay_runs(base: BetaKlConfig, seeds: int) -> Iterator[tuple[Row, BetaKlConfig, str]]:
    """Every row at every seed, with its settings and a folder's name."""
    for seed in range(base.seed, base.seed + seeds):
        for row in ROWS:
            if seed >= base.seed + row.seeds:
                continue
            changes = {"beta_rise_steps": round(RISE * base.steps), **row.changes, "seed": seed}
            yield row, msgspec.structs.replace(base, **changes), f"{row.name.replace(',', '').replace(' ', '-')}-{seed}"


def measure_run(row: Row, settings: BetaKlConfig, data: Path, run: Path, world: World, stage: Stage) -> dict[str, Any]:
    """One run trained, where it is not yet, and its scores in percent."""
    slides = run.parent / f"{row.layout}-{settings.seed}"
    if world.leads:
        lay_once(weak_mosaic.make_weak_mosaics, data, slides, row.layout, SLIDES, CELLS, settings.seed)
    world.wait()
    beta_kl.train(settings, beta_kl.find_slides(settings, slides), run, world, stage)
    return score_once(run, (slides,), lambda: score_run(run, slides, stage)) if world.leads else {}


def score_run(run: Path, slides: Path, stage: Stage) -> dict[str, Any]:
    """A run's scores on the test slides, and the share of its last patches of malign slides that showed tumour."""
    bundle = export_run(run, run / "bundle.glass", run.name)
    told = stage(f"score {run.name}", SLIDES["test"])
    with closing(open_backend(bundle, throughput=True)) as backend:
        report = evaluate(bundle, backend, "mosaic", slides, "test", lambda done, total: told(done - 1, math.nan))
    return {**report["scores"], "purity": 100 * tell_purity(run / "metrics.csv")}


def tell_purity(table: Path) -> float:
    """Mean share of the patches of malign slides that showed tumour, over the last quarter of a run's steps."""
    with table.open(newline="") as file:
        shares = [float(row["purity"]) for row in csv.DictReader(file)]
    return statistics.fmean(shares[-max(1, round(LAST * len(shares))) :])


def draw_table(report: dict[str, Any]) -> list[list[str]]:
    """Means over seeds, their standard deviations, and by how much pixel AUC exceeds that of `PLAIN` on its slides."""
    table = [["", *SHOWN, f"pixel AUC above {PLAIN}"]]
    plain = {(row["layout"], row["seed"]): row["pixel AUC"] for row in report["rows"] if row["row"].startswith(PLAIN)}
    for name in dict.fromkeys(row["row"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["row"] == name]
        cells = [spread([row[key] for row in rows]) for key in SHOWN]
        gains = [row["pixel AUC"] - plain[row["layout"], row["seed"]] for row in rows]
        table.append([name, *cells, "" if name.startswith(PLAIN) else ", ".join(f"{gain:+.1f}" for gain in gains)])
    return table
