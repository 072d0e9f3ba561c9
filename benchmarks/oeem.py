"""The tables of OEEM, measured again: one classifier, then a segmentation network for each loss and seed.

Everything is kept in one folder, so a stopped benchmark goes on where it was. All scores are the engine's.
"""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from glassrt.benchmarks.machine import write_report
from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.files import replace_file
from glassrt.engine.runtimes.open import open_backend
from glassrt.export.bundle import export_run
from glassrt.export.kinds.segmentation import PAPER_SCALES
from glassrt.training.datasets import glas
from glassrt.training.evaluate import evaluate
from glassrt.training.loop import Progress
from glassrt.training.methods import oeem, segment
from glassrt.training.methods.oeem import OeemConfig, Stage
from glassrt.training.methods.segment import SegmentConfig
from glassrt.training.world import World

SPLIT = "testA"


class Row(NamedTuple):
    """One row of the tables: what changes in stage 2, whether it sees true masks, takes every seed, every test."""

    name: str
    changes: dict[str, Any]
    full_masks: bool = False
    repeated: bool = False
    multi_scale: bool = False


ROWS = (
    Row("baseline", {"loss": "cross_entropy"}, repeated=True, multi_scale=True),
    Row("l_norm", {"loss": "l_norm"}, repeated=True, multi_scale=True),
    Row("fully supervised", {"loss": "cross_entropy"}, full_masks=True, multi_scale=True),
    Row("l_norm tempered by 0.5", {"loss": "l_norm", "beta": 0.5}),
    Row("lc_mix", {"loss": "lc_mix"}),
    Row("c_max", {"loss": "c_max"}),
    Row("c_diff", {"loss": "c_diff"}),
    Row("OHEM", {"loss": "ohem"}),
)


def measure_oeem(
    config: OeemConfig, data: Path, folder: Path, seeds: int, world: World, stage: Stage, report_file: Path
) -> dict[str, Any]:
    """Train and score every row at scale 1; the first seed of the rows that matter most with the multi-scale test too.

    `report_file` is written anew after each row. Raises TrainingError, DatasetError or OutputError.
    """
    masks = oeem.learn_masks(config, data, folder, world, stage)
    train_scores = msgspec.json.decode((masks / oeem.SCORES).read_bytes())["mIoU"]
    report: dict[str, Any] = {"config": msgspec.to_builtins(config), "train": train_scores, "rows": []}
    for row, settings, name in lay_runs(config.segment, seeds):
        run = folder / name
        samples = segment.load_samples(data, settings.split, None if row.full_masks else masks)
        method, labels = (segment.METHOD, "masks") if row.full_masks else (oeem.METHOD, oeem.LABELS)
        segment.train(settings, samples, run, world, stage(name, settings.steps), method, labels)
        if world.leads:
            scores = score_run(run, data, row.multi_scale and settings.seed == config.segment.seed, stage)
            report["rows"].append({"row": row.name, "seed": settings.seed, **scores})
            write_report(report_file, report)
        world.wait()
    return report


def score_run(run: Path, data: Path, multi_scale: bool, stage: Stage) -> dict[str, Any]:
    """The run's scores on the test split in percent, from `scores.json` beside it as far as they are there."""
    file = run / "scores.json"
    model = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    known = msgspec.json.decode(file.read_bytes()) if file.exists() else {}
    scores = known.get("scores", {}) if known.get("model") == model else {}
    tests = {"scale 1": ((1.0,), False), **({"multi-scale": (PAPER_SCALES, True)} if multi_scale else {})}
    missing = [test for test in tests if test not in scores]
    if not missing:
        return dict(scores)
    bundle = export_run(run, run / "bundle.glass", run.name)
    for test in missing:
        told = stage(f"{run.name}, {test}", len(glas.find_images(data, SPLIT)))
        scores[test] = score(bundle.replace(*tests[test]), data, told)
        with replace_file(file) as beside:
            beside.write_bytes(msgspec.json.encode({"model": model, "scores": scores}))
    return dict(scores)


def score(bundle: Bundle, data: Path, progress: Progress) -> dict[str, float]:
    """The bundle's scores on the test split, in percent."""
    backend = open_backend(bundle, throughput=True)
    report = evaluate(bundle, backend, "glas", data, SPLIT, lambda done, total: progress(done - 1, math.nan))
    return dict(report["scores"])


def lay_runs(base: SegmentConfig, seeds: int) -> Iterator[tuple[Row, SegmentConfig, str]]:
    """Every row at the first seed, then the repeated ones at the others; with the settings and a folder's name."""
    for seed in range(base.seed, base.seed + seeds):
        for row in ROWS:
            if row.repeated or seed == base.seed:
                changes = {"beta": 1.0, "beta_rise_steps": 0, **row.changes, "seed": seed}
                yield row, msgspec.structs.replace(base, **changes), f"{row.name.replace(' ', '-')}-{seed}"
