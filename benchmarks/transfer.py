"""Transfer measured: classifiers from every start, on few patches, paired by what they learn from and their seed.

All is kept in one folder, so a stopped benchmark goes on where it was. Scores are the trained network's in torch, which
exported bundles equal: nothing of a cell is kept but its scores.
"""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from glassrt.benchmarks.machine import write_report
from glassrt.benchmarks.runs import spread
from glassrt.benchmarks.transfer_cells import WAYS, Cell, Cells, Start, Test, score_all
from glassrt.engine.errors import UsageError
from glassrt.training.methods import transfer
from glassrt.training.methods.oeem import Stage
from glassrt.training.methods.transfer import TransferConfig
from glassrt.training.networks.encoders import IMAGENET, PACKAGED, RANDOM, STRIDES, check_encoder
from glassrt.training.world import World

# Patches of each class, as the paper's Table 1 has them, and its accuracy by start and number of patches.
COUNTS = {"pcam": (1000, 2000, 3000)}
FEW = (12, 25, 50)  # of other sets, as of Kather's
PAPER = {
    "kather": {
        "random": "61.6 / 64.1 / 77.3",
        "VOC classification": "63.0 / 69.2 / 78.0",
        "VOC segmentation": "67.3 / 73.3 / 81.4",
    },
    "pcam": {
        "random": "79.4 / 81.3 / 84.1",
        "VOC classification": "76.6 / 81.0 / 82.5",
        "VOC segmentation": "82.1 / 86.1 / 87.8",
    },
}
TASKS = ("classification", "segmentation")


def parse_start(text: str) -> Start:
    """NAME=ENCODER:FILE. Raises UsageError."""
    name, _, told = text.partition("=")
    encoder, _, weights = told.partition(":")
    if not (name and encoder and weights):
        raise UsageError(f"--start {text} is not NAME=ENCODER:FILE, as in GlaS=resnet18:run/model.safetensors")
    return Start(name, encoder, weights)


def measure_transfer(
    config: TransferConfig,
    data: Path,
    natural: Path,
    folder: Path,
    others: Sequence[Start],
    repeats: int,
    world: World,
    stage: Stage,
    report_file: Path,
    processes: int = 1,
) -> dict[str, Any]:
    """Train and score every start on every number of patches, `repeats` times, in so many `processes`; `others` are
    starts of one's own.

    `report_file` is written anew after each repeat. Raises TrainingError, DatasetError, UsageError or OutputError, for
    what cannot work before anything is trained.
    """
    counts = COUNTS.get(config.dataset, FEW)
    again = (config, max(counts), data, natural, folder, world)
    cells = Cells(*again)
    starts = lay_starts(config, folder, others)
    made = {str(place(folder, task)) for task in TASKS}
    for start in starts:
        if start.weights not in made:
            check_start(config, start, cells.truth)
    transfer.check(config, natural, world)
    scores = {}
    for task in TASKS:
        run = place(folder, task).parent
        transfer.pretrain(pretrained(config, task), natural, run, world, stage)
        scores[task] = msgspec.json.decode((run / transfer.SCORES).read_bytes())
    report: dict[str, Any] = {
        "config": msgspec.to_builtins(config),
        "pre-training": scores,
        "tested": len(cells.truth.chosen),
        "rows": [],
    }
    asked = [Cell(start, count, repeat) for repeat in range(1, repeats + 1) for count in counts for start in starts]
    progress = stage("cells", len(asked))
    for cell, found in zip(asked, score_all(cells, asked, processes, again), strict=True):
        start = cell.start
        row = {"start": start.name, "encoder": start.encoder, "examples": cell.examples, "repeat": cell.repeat}
        report["rows"].append({**row, **found})
        progress(len(report["rows"]) - 1, math.nan)
        if len(report["rows"]) % (len(counts) * len(starts)) == 0:
            write_report(report_file, report)
    return report


def lay_starts(config: TransferConfig, folder: Path, others: Sequence[Start]) -> list[Start]:
    """Every start, those from VOC in `folder`. Raises UsageError for a configuration that has no pre-training, and for
    two starts of one name.
    """
    if config.pretraining is UNSET:
        raise UsageError("the configuration has no [pretraining], which two of the starts are of")
    learned = [Start(f"VOC {task}", config.encoder, str(place(folder, task))) for task in TASKS]
    packaged = [Start(f"{PACKAGED[0]}, {weights}", PACKAGED[0], weights) for weights in (RANDOM, IMAGENET)]
    starts = [Start("random", config.encoder, RANDOM), *learned, *others, *packaged]
    names = [start.name for start in starts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"--start {twice[0]}: another start has this name; choose one of its own")
    return starts


def place(folder: Path, task: str) -> Path:
    """Where the weights of a pre-training are."""
    return folder / f"{transfer.PRETRAINING}-{task}" / "model.safetensors"


def pretrained(config: TransferConfig, task: str) -> TransferConfig:
    """The configuration with that kind of pre-training."""
    assert config.pretraining is not UNSET
    return msgspec.structs.replace(config, pretraining=msgspec.structs.replace(config.pretraining, task=task))


def check_start(config: TransferConfig, start: Start, truth: Test) -> None:
    """Load a start's weights once. Raises TrainingError where they are not the encoder's, UsageError where they are of
    a classifier that learned from what is tested.
    """
    check_encoder(start.encoder, max(STRIDES.get(start.encoder, (32,))), start.weights)
    network = transfer.build_network(msgspec.structs.replace(config, encoder=start.encoder), len(truth.patches.classes))
    transfer.load_start(network, start.encoder, start.weights)
    if known := {*transfer.tell_start(start.weights)[1]}.intersection(truth.patches.sources):
        raise UsageError(f"--start {start.name}: it learned from {min(known)}, which is tested")


def draw_table(report: dict[str, Any]) -> list[list[str]]:
    """A row for each start: accuracy by the number of patches, and by how much it exceeds that of random weights of the
    same encoder, paired.
    """
    rows = report["rows"]
    counts = sorted({row["examples"] for row in rows})
    heads = [f"{count} of each" for count in counts]
    published = PAPER.get(report["config"]["dataset"], {})
    papers = ["paper"] if published else []
    table = [["start", *heads, "above random", *(f"{way}, {counts[-1]}" for way in WAYS), *papers]]
    for name in dict.fromkeys(row["start"] for row in rows):
        mine = [row for row in rows if row["start"] == name]
        cells = [spread([row["accuracy"] for row in mine if row["examples"] == count]) for count in counts]
        last = [row for row in mine if row["examples"] == counts[-1]]
        probes = [spread([row[way] for row in last]) for way in WAYS]
        paper = [published.get(name, "")] if published else []
        table.append([name, *cells, tell_gain(rows, mine), *probes, *paper])
    return table


def tell_gain(rows: Sequence[dict[str, Any]], mine: Sequence[dict[str, Any]]) -> str:
    """The mean gain over the random weights of the encoder, and in how many of the cells there is one."""
    base = "random" if mine[0]["encoder"] == rows[0]["encoder"] else f"{mine[0]['encoder']}, random"
    other = {(row["examples"], row["repeat"]): row["accuracy"] for row in rows if row["start"] == base}
    if mine[0]["start"] == base or not other:
        return ""
    gains = [row["accuracy"] - other[row["examples"], row["repeat"]] for row in mine]
    return f"{statistics.fmean(gains):+.1f}, in {sum(gain > 0 for gain in gains)} of {len(gains)}"
