"""The tables of OEEM, measured again: one classifier, then a segmentation network for each loss and seed.

Everything is kept in one folder, so a stopped benchmark goes on where it was. All scores are the engine's.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from glassrt.benchmarks.machine import write_report
from glassrt.engine.backends import open_backend
from glassrt.engine.bundle import Bundle, open_bundle
from glassrt.export.bundle import PAPER_SCALES, export_run
from glassrt.training.datasets import glas
from glassrt.training.evaluate import evaluate
from glassrt.training.loop import Progress
from glassrt.training.methods import oeem, segment
from glassrt.training.methods.oeem import OeemConfig, Stage
from glassrt.training.methods.segment import SegmentConfig
from glassrt.training.world import World

SPLIT = "testA"


class Row(NamedTuple):
    """One row of the tables: what changes in stage 2, whether it sees true masks, and how many seeds it takes."""

    name: str
    changes: dict[str, Any]
    full_masks: bool = False
    repeated: bool = False


ROWS = (
    Row("baseline", {"loss": "cross_entropy"}, repeated=True),
    Row("l_norm", {"loss": "l_norm"}, repeated=True),
    Row("fully supervised", {"loss": "cross_entropy"}, full_masks=True),
    Row("l_norm tempered by 0.5", {"loss": "l_norm", "beta": 0.5}),
    Row("lc_mix", {"loss": "lc_mix"}),
    Row("c_max", {"loss": "c_max"}),
    Row("c_diff", {"loss": "c_diff"}),
    Row("OHEM", {"loss": "ohem"}),
)


def measure_oeem(
    config: OeemConfig, data: Path, folder: Path, seeds: int, world: World, stage: Stage, report_file: Path
) -> dict[str, Any]:
    """Train and score every row, at scale 1 and then with the multi-scale test (first seed only).

    `report_file` is written anew after each score. Raises TrainingError, DatasetError or OutputError.
    """
    masks = oeem.learn_masks(config, data, folder, world, stage)
    train_scores = msgspec.json.decode((masks / oeem.SCORES).read_bytes())
    report: dict[str, Any] = {"config": msgspec.to_builtins(config), "train": train_scores, "rows": []}
    runs = list(lay_runs(config.segment, seeds))
    images = len(glas.find_images(data, SPLIT))
    for row, settings, name in runs:
        run = folder / name
        samples = segment.load_samples(data, settings.split, None if row.full_masks else masks)
        method = segment.METHOD if row.full_masks else oeem.METHOD
        segment.train(settings, samples, run, world, stage(name, settings.steps), method)
        bundle = export_run(run, run / "bundle.glass", name)
        scores = score(bundle.replace((1.0,), False), data, stage(f"{name}, scale 1", images))
        report["rows"].append({"row": row.name, "seed": settings.seed, "scale 1": scores})
        write_report(report_file, report)
    for result, (_, settings, name) in zip(report["rows"], runs, strict=True):
        if settings.seed == config.segment.seed:
            bundle = open_bundle(folder / name / "bundle.glass")
            progress = stage(f"{name}, multi-scale", images)
            result["multi-scale"] = score(bundle.replace(PAPER_SCALES, True), data, progress)
            write_report(report_file, report)
    return report


def score(bundle: Bundle, data: Path, progress: Progress) -> dict[str, float]:
    """The bundle's scores on the test split, in percent."""
    backend = open_backend(bundle)
    report = evaluate(bundle, backend, "glas", data, SPLIT, lambda done, total: progress(done - 1, math.nan))
    return dict(report["scores"])


def lay_runs(base: SegmentConfig, seeds: int) -> Iterator[tuple[Row, SegmentConfig, str]]:
    """Every row at the first seed, then the repeated ones at the others; with the settings and a folder's name."""
    for seed in range(base.seed, base.seed + seeds):
        for row in ROWS:
            if row.repeated or seed == base.seed:
                changes = {"beta": 1.0, "beta_rise_steps": 0, **row.changes, "seed": seed}
                yield row, msgspec.structs.replace(base, **changes), f"{row.name.replace(' ', '-')}-{seed}"
