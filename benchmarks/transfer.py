"""Transfer measured: classifiers from every start, on few patches, paired by what they learn from and their seed.

All is kept in one folder, so a stopped benchmark goes on where it was. Scores are the trained network's in torch, which
exported bundles equal: nothing of a cell is kept but its scores.
"""

import hashlib
import math
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from msgspec import UNSET
from numpy.typing import NDArray
from torch import Tensor, nn

from glassrt.benchmarks.machine import write_report
from glassrt.benchmarks.runs import spread
from glassrt.engine.errors import UsageError
from glassrt.engine.files import replace_file
from glassrt.training import checkpoint
from glassrt.training.datasets.labelled_patches import LabelledPatches
from glassrt.training.evaluations.patches import rate
from glassrt.training.methods import transfer
from glassrt.training.methods.oeem import Stage
from glassrt.training.methods.transfer import TransferConfig
from glassrt.training.networks.encoders import IMAGENET, PACKAGED, RANDOM
from glassrt.training.probe import classify_by_neighbours, classify_linearly
from glassrt.training.world import World

COUNTS = (12, 25, 50)  # patches of each class, as the paper's Table 1 has them of CRC
TESTED = 400  # patches of each class of the split `test`
BATCH = 64
TASKS = ("classification", "segmentation")
WAYS: dict[str, Callable[..., NDArray[np.float32]]] = {
    "linear probe": classify_linearly,
    "nearest neighbours": classify_by_neighbours,
}
# Accuracy of Table 1 on Kather's patches, by start and number of patches of each class.
PAPER = {
    "random": ("61.6", "64.1", "77.3"),
    "VOC classification": ("63.0", "69.2", "78.0"),
    "VOC segmentation": ("67.3", "73.3", "81.4"),
}


class Start(NamedTuple):
    """An encoder and the weights that it starts from."""

    name: str
    encoder: str
    weights: str


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
) -> dict[str, Any]:
    """Train and score every start on every number of patches, `repeats` times; `others` are starts of one's own.

    `report_file` is written anew after each repeat. Raises TrainingError, DatasetError or OutputError.
    """
    starts, natural_scores = lay_starts(config, natural, folder, others, world, stage)
    tested = msgspec.structs.replace(config, split="test", examples=TESTED, subset=0)
    found = transfer.load_patches(tested, data)
    truth = Test(found, transfer.draw_examples(found, tested))
    report: dict[str, Any] = {
        "config": msgspec.to_builtins(config),
        "pre-training": natural_scores,
        "tested": len(truth.chosen),
        "rows": [],
    }
    progress = stage("cells", repeats * len(COUNTS) * len(starts))
    for repeat in range(1, repeats + 1):
        for start, count in ((start, count) for count in COUNTS for start in starts):
            asked = msgspec.structs.replace(
                config, encoder=start.encoder, weights=start.weights, pretraining=UNSET, examples=count,
                subset=repeat, seed=repeat,
            )  # fmt: skip
            scores = score_cell(asked, start, data, truth, folder, world)
            row = {"start": start.name, "encoder": start.encoder, "examples": count, "repeat": repeat}
            report["rows"].append({**row, **scores})
            progress(len(report["rows"]) - 1, math.nan)
        write_report(report_file, report)
    return report


def lay_starts(
    config: TransferConfig, natural: Path, folder: Path, others: Sequence[Start], world: World, stage: Stage
) -> tuple[list[Start], dict[str, dict[str, float]]]:
    """Every start, those from VOC trained in `folder` before, and how well these know VOC. Raises UsageError for a
    configuration that has no pre-training.
    """
    if config.pretraining is UNSET:
        raise UsageError("the configuration has no [pretraining], which two of the starts are of")
    starts, scores = [Start("random", config.encoder, RANDOM)], {}
    for task in TASKS:
        before = msgspec.structs.replace(config.pretraining, task=task)
        place = folder / f"{transfer.PRETRAINING}-{task}"
        file = transfer.pretrain(msgspec.structs.replace(config, pretraining=before), natural, place, world, stage)
        starts.append(Start(f"VOC {task}", config.encoder, str(file)))
        scores[task] = msgspec.json.decode((place / transfer.SCORES).read_bytes())
    packaged = [Start(f"{PACKAGED}, {weights}", PACKAGED, weights) for weights in (RANDOM, IMAGENET)]
    return [*starts, *others, *packaged], scores


class Test(NamedTuple):
    """The patches that are scored, and their numbers."""

    patches: LabelledPatches
    chosen: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.patches.labels[self.chosen]


def score_cell(
    config: TransferConfig, start: Start, data: Path, truth: Test, folder: Path, world: World
) -> dict[str, float]:
    """The scores, in percent, of one classifier, of its start's features linearly and of their neighbours; known ones
    where a cell was measured before with the same settings and weights.
    """
    digest = hashlib.sha256(msgspec.json.encode([config, truth.chosen.tolist()]))
    if Path(start.weights).is_file():
        digest.update(Path(start.weights).read_bytes())
    file = folder / "cells" / f"{start.name}-{config.examples}-{config.subset}.json".replace(" ", "-")
    known = msgspec.json.decode(file.read_bytes()) if file.exists() else {}
    if known.get("of") == digest.hexdigest():
        return dict(known["scores"])
    patches = transfer.load_patches(config, data)
    chosen, classes = transfer.draw_examples(patches, config), len(patches.classes)
    run = folder / "cells" / "run"
    shutil.rmtree(run, ignore_errors=True)
    transfer.train(config, patches, data, run, world, lambda name, steps: lambda step, loss: None)
    network = transfer.build_network(config, classes)
    checkpoint.load_into(network, checkpoint.load(run / "model.safetensors")[0], run)
    logits = apply(network.to(world.device), truth, config.window)
    scores = dict(rate(logits.astype(np.float64), truth.labels))
    torch.manual_seed(config.seed)  # as where it was trained
    frozen = transfer.build_network(config, classes)
    transfer.load_start(frozen, config.encoder, config.weights)
    bare = frozen.encoder.to(world.device)
    features = [apply(bare, each, config.window) for each in (Test(patches, chosen), truth)]
    for name, way in WAYS.items():
        said = way(features[0], patches.labels[chosen], features[1], classes)
        scores[name] = float((said.argmax(1) == truth.labels).mean())
    percent = {name: round(100 * value, 3) for name, value in scores.items()}
    shutil.rmtree(run)
    with replace_file(file) as beside:
        beside.write_bytes(msgspec.json.encode({"of": digest.hexdigest(), "scores": percent}))
    return percent


@torch.inference_mode()
def apply(network: nn.Module, test: Test, window: int) -> NDArray[np.float32]:
    """What a network in evaluation mode gives of patches, `[N, ...]`."""
    place = next(network.eval().parameters()).device
    return np.concatenate([network(batch.to(place)).float().cpu().numpy() for batch in batches(test, window)])


def batches(test: Test, window: int) -> Iterator[Tensor]:
    """The patches as networks take them."""
    for first in range(0, len(test.chosen), BATCH):
        pixels = [transfer.read_patch(test.patches, int(at), window) for at in test.chosen[first : first + BATCH]]
        yield torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float()


def draw_table(report: dict[str, Any]) -> list[list[str]]:
    """A row for each start: accuracy by the number of patches, and by how much it exceeds that of random weights of the
    same encoder, paired.
    """
    rows = report["rows"]
    counts = sorted({row["examples"] for row in rows})
    heads = [f"{count} of each" for count in counts]
    table = [["start", *heads, "above random", *(f"{way}, {counts[-1]}" for way in WAYS), "paper (CRC)"]]
    for name in dict.fromkeys(row["start"] for row in rows):
        mine = [row for row in rows if row["start"] == name]
        cells = [spread([row["accuracy"] for row in mine if row["examples"] == count]) for count in counts]
        last = [row for row in mine if row["examples"] == counts[-1]]
        probes = [spread([row[way] for row in last]) for way in WAYS]
        paper = " / ".join(PAPER.get(name, ()))
        table.append([name, *cells, tell_gain(rows, mine), *probes, paper])
    return table


def tell_gain(rows: Sequence[dict[str, Any]], mine: Sequence[dict[str, Any]]) -> str:
    """The mean gain over the random weights of the encoder, and in how many of the cells there is one."""
    base = "random" if mine[0]["encoder"] == rows[0]["encoder"] else f"{mine[0]['encoder']}, random"
    other = {(row["examples"], row["repeat"]): row["accuracy"] for row in rows if row["start"] == base}
    if mine[0]["start"] == base or not other:
        return ""
    gains = [row["accuracy"] - other[row["examples"], row["repeat"]] for row in mine]
    return f"{statistics.fmean(gains):+.1f}, in {sum(gain > 0 for gain in gains)} of {len(gains)}"
