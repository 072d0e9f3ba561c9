"""The tables of DA-RefineNet, measured on mosaic slides: what surroundings are worth, by fusion and by layout.

Everything is kept in one folder, so a stopped benchmark goes on where it was. All scores are the engine's.
"""

import math
import statistics
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from glassrt.benchmarks.machine import write_report
from glassrt.benchmarks.runs import lay_once, score_once
from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.runtimes.open import open_backend
from glassrt.export.bundle import export_run
from glassrt.training.datasets import mosaic
from glassrt.training.evaluate import evaluate
from glassrt.training.loop import Progress
from glassrt.training.methods import da_refinenet
from glassrt.training.methods.da_refinenet import DaRefineNetConfig
from glassrt.training.methods.oeem import Stage
from glassrt.training.world import World

SLIDES = {"train": 24, "test": 2}  # of fewer a dual network learns where images lie by heart
CELLS = 12  # images along a slide's side
ANEW = {"train": 1}  # slides of the training images, laid in another way than those that were trained on
MOSAIC_SEED, ANEW_SEED = 1, 2
COMPARED = ("mIoU", "mIoU of 3")
# Of DA-RefineNet on BACH, Tables I to III: means of the printed class IoUs, of which some printed mIoUs are none.
PAPERS_MIOU = {
    "single input": "41.3",
    "dual, add": "46.0",
    "dual, concat": "49.1",
    "dual, attention": "50.9",
    "multi-size dual, add": "44.8",
}
OTHER_ANCHOR = {"tile": "centre", "centre": "tile"}


class Row(NamedTuple):
    """One row of the tables: what it changes, how its slides are laid out, whether both anchors are tried."""

    name: str
    changes: dict[str, Any]
    layout: str = "coherent"
    both_anchors: bool = False


ROWS = (
    Row("single input", {"context": "none"}),
    Row("dual, attention pooled", {"fusion": "attention_pooled"}, both_anchors=True),
    Row("dual, add", {"fusion": "add"}),
    Row("dual, concat", {"fusion": "concat"}),
    Row("dual, attention", {"fusion": "attention"}),
    Row("single input, random layout", {"context": "none"}, "random"),
    Row("dual, attention pooled, random layout", {"fusion": "attention_pooled"}, "random"),
    Row("multi-size dual, add", {"context": "same", "fusion": "add"}),
    Row("dual, attention pooled, full blocks", {"fusion": "attention_pooled", "light": False}),
    Row("dual, add, footprint", {"fusion": "add", "align": "footprint"}),
)


def measure_da_refinenet(
    config: DaRefineNetConfig, data: Path, folder: Path, seeds: int, world: World, stage: Stage, report_file: Path
) -> dict[str, Any]:
    """Train and score every row with every seed on mosaics of the GlaS images in `data`.

    `report_file` is written anew after each run. Raises TrainingError, DatasetError or OutputError.
    """
    report: dict[str, Any] = {
        "config": msgspec.to_builtins(config),
        "mosaics": {"slides": SLIDES, "images_a_side": CELLS, "seed": MOSAIC_SEED},
        "rows": [],
    }
    for row, settings, name in lay_runs(config, seeds):
        scores = measure_run(row, settings, data, folder / name, world, stage)
        if world.leads:
            report["rows"].append({"row": row.name, "layout": row.layout, "seed": settings.seed, **scores})
            write_report(report_file, report)
        world.wait()
    return report


def measure_run(
    row: Row, settings: DaRefineNetConfig, data: Path, run: Path, world: World, stage: Stage
) -> dict[str, Any]:
    """One run trained, where it is not yet, and its scores."""
    slides, anew = run.parent / row.layout, run.parent / f"{row.layout}-anew"
    for folder, count, seed in ((slides, SLIDES, MOSAIC_SEED), (anew, ANEW, ANEW_SEED)):
        if world.leads:
            lay_once(mosaic.make_mosaics, data, folder, row.layout, count, CELLS, seed)
    world.wait()
    labelled = da_refinenet.find_slides(settings, slides)
    da_refinenet.train(settings, labelled, run, world, stage(run.name, settings.steps))
    if not world.leads:
        return {}
    return score_once(run, (slides, anew), lambda: score_run(run, settings, slides, anew, row.both_anchors, stage))


def score_run(
    run: Path, settings: DaRefineNetConfig, slides: Path, anew: Path, both_anchors: bool, stage: Stage
) -> dict[str, Any]:
    """The run's parameters and its scores in percent.

    They are those on the test slides; beside them some on training images laid anew, whose glands the network knows
    but not their neighbours: what separates what it can learn from what it can tell of others' tissue.
    """
    bundle = export_run(run, run / "bundle.glass", run.name)
    network = da_refinenet.build_network(settings)
    scores: dict[str, Any] = {"parameters": sum(each.numel() for each in network.parameters())}
    scores |= score(bundle, slides, "test", stage(f"score {run.name}", SLIDES["test"]))
    told = stage(f"score {run.name}, train images", ANEW["train"])
    known = score(bundle, anew, "train", told)
    scores |= {f"{name}, train images": known[name] for name in COMPARED}
    if both_anchors:
        other = OTHER_ANCHOR[settings.context_anchor]
        anchored = msgspec.structs.replace(bundle.manifest, context_anchor=other)
        told = stage(f"score {run.name}, {other}", SLIDES["test"])
        found = score(Bundle(bundle.path, anchored, bundle.sha256), slides, "test", told)
        scores |= {f"{name}, {other}": found[name] for name in COMPARED}
    return scores


def score(bundle: Bundle, slides: Path, split: str, progress: Progress) -> dict[str, float]:
    """The bundle's scores on the slides of a split, in percent."""
    with closing(open_backend(bundle, throughput=True)) as backend:
        report = evaluate(bundle, backend, "mosaic", slides, split, lambda done, total: progress(done - 1, math.nan))
    return dict(report["scores"])


def lay_runs(base: DaRefineNetConfig, seeds: int) -> Iterator[tuple[Row, DaRefineNetConfig, str]]:
    """Every row at every seed, with its settings and a folder's name."""
    for seed in range(base.seed, base.seed + seeds):
        for row in ROWS:
            settings = msgspec.structs.replace(base, **row.changes, seed=seed)
            yield row, settings, f"{row.name.replace(',', '').replace(' ', '-')}-{seed}"


def draw_table(report: dict[str, Any]) -> list[list[str]]:
    """Means over seeds of every network on the test slides, and the mIoU of each seed."""
    shown = ("accuracy", "score", *(name for name in report["rows"][0] if name.startswith("IoU ")))
    anew = ("mIoU, train images", "mIoU of 3, train images")
    heads = ["", "paper's mIoU", "mIoU", "seeds", "mIoU of 3", "seeds", *shown, *anew, "parameters"]
    table = [heads]
    for name in dict.fromkeys(row["row"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["row"] == name]
        mean = {key: statistics.mean(row[key] for row in rows) for key in ("mIoU", "mIoU of 3", *shown, *anew)}
        table.append([
            name,
            PAPERS_MIOU.get(name, ""),
            f"{mean['mIoU']:.1f}",
            ", ".join(f"{row['mIoU']:.1f}" for row in rows),
            f"{mean['mIoU of 3']:.1f}",
            ", ".join(f"{row['mIoU of 3']:.1f}" for row in rows),
            *(f"{mean[key]:.1f}" for key in (*shown, *anew)),
            f"{rows[0]['parameters'] / 1e6:.2f} M",
        ])  # fmt: skip
    return table
