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
from glassrt.engine.errors import DatasetError, UsageError
from glassrt.engine.files import replace_file
from glassrt.training import checkpoint
from glassrt.training.datasets.labelled_patches import LabelledPatches
from glassrt.training.evaluations.patches import rate
from glassrt.training.methods import transfer
from glassrt.training.methods.oeem import Stage
from glassrt.training.methods.transfer import TransferConfig
from glassrt.training.networks.encoders import IMAGENET, PACKAGED, RANDOM, STRIDES, check_encoder
from glassrt.training.patch_sets import draw_examples, fingerprint, load_patches, read_patch, tell_mpp
from glassrt.training.probe import classify_by_neighbours, classify_linearly
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
TESTED = 250  # patches of each class of the split `test` at most
BATCH = 64
TASKS = ("classification", "segmentation")
WAYS: dict[str, Callable[..., NDArray[np.float32]]] = {
    "linear probe": classify_linearly,
    "nearest neighbours": classify_by_neighbours,
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

    `report_file` is written anew after each repeat. Raises TrainingError, DatasetError, UsageError or OutputError, for
    what cannot work before anything is trained.
    """
    counts = COUNTS.get(config.dataset, FEW)
    patches = load_patches(msgspec.structs.replace(config, examples=max(counts)), data)
    truth = find_test(config, patches, data)
    starts = lay_starts(config, folder, others)
    made = {str(place(folder, task)) for task in TASKS}
    for start in starts:
        if start.weights not in made:
            check_start(config, start, truth)
    transfer.check(config, natural, world)
    scores = {}
    for task in TASKS:
        run = place(folder, task).parent
        transfer.pretrain(pretrained(config, task), natural, run, world, stage)
        scores[task] = msgspec.json.decode((run / transfer.SCORES).read_bytes())
    report: dict[str, Any] = {
        "config": msgspec.to_builtins(config),
        "pre-training": scores,
        "tested": len(truth.chosen),
        "rows": [],
    }
    progress = stage("cells", repeats * len(counts) * len(starts))
    kept: dict[str, NDArray[np.float32]] = {}
    for repeat in range(1, repeats + 1):
        for start, count in ((start, count) for count in counts for start in starts):
            asked = msgspec.structs.replace(
                config, encoder=start.encoder, weights=start.weights, pretraining=UNSET, examples=count,
                subset=repeat, seed=repeat,
            )  # fmt: skip
            found = score_cell(asked, start, patches, natural, truth, folder, world, kept)
            row = {"start": start.name, "encoder": start.encoder, "examples": count, "repeat": repeat}
            report["rows"].append({**row, **found})
            progress(len(report["rows"]) - 1, math.nan)
        write_report(report_file, report)
    return report


def find_test(config: TransferConfig, learned: LabelledPatches, data: Path) -> "Test":
    """As many patches of each class as are tested. Raises DatasetError where they are not like those that are learned
    from in all but their slides.
    """
    found = load_patches(msgspec.structs.replace(config, split="test", examples=1), data)
    if learned.classes != found.classes:
        told, other = (", ".join(each.classes) for each in (learned, found))
        raise DatasetError(f"{data}: {config.split} has the classes {told}, test has {other}")
    if config.split in ("test", "all") or {*learned.sources} & {*found.sources}:
        raise DatasetError(f"{data}: the split {config.split} holds what is tested; learn from another one")
    if tell_mpp(learned, config.window) != tell_mpp(found, config.window):
        raise DatasetError(f"{data}: patches of {config.split} and of test have other sizes: cut all alike")
    count = min(TESTED, int(np.bincount(found.labels).min()))
    chosen = draw_examples(found, msgspec.structs.replace(config, split="test", examples=count, subset=0))
    return Test(found, chosen, fingerprint(found, chosen))


def lay_starts(config: TransferConfig, folder: Path, others: Sequence[Start]) -> list[Start]:
    """Every start, those from VOC in `folder`. Raises UsageError for a configuration that has no pre-training, and for
    two starts of one name.
    """
    if config.pretraining is UNSET:
        raise UsageError("the configuration has no [pretraining], which two of the starts are of")
    learned = [Start(f"VOC {task}", config.encoder, str(place(folder, task))) for task in TASKS]
    packaged = [Start(f"{PACKAGED}, {weights}", PACKAGED, weights) for weights in (RANDOM, IMAGENET)]
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


def check_start(config: TransferConfig, start: Start, truth: "Test") -> None:
    """Load a start's weights once. Raises TrainingError where they are not the encoder's, UsageError where they are of
    a classifier that learned from what is tested.
    """
    check_encoder(start.encoder, max(STRIDES.get(start.encoder, (32,))), start.weights)
    network = transfer.build_network(msgspec.structs.replace(config, encoder=start.encoder), len(truth.patches.classes))
    transfer.load_start(network, start.encoder, start.weights)
    if known := {*transfer.tell_start(start.weights)[1]}.intersection(truth.patches.sources):
        raise UsageError(f"--start {start.name}: it learned from {min(known)}, which is tested")


class Test(NamedTuple):
    """Patches, the numbers of those that are meant, and what tells these from others."""

    patches: LabelledPatches
    chosen: NDArray[np.int64]
    hash: str = ""

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.patches.labels[self.chosen]


def score_cell(
    config: TransferConfig,
    start: Start,
    patches: LabelledPatches,
    natural: Path,
    truth: Test,
    folder: Path,
    world: World,
    kept: dict[str, NDArray[np.float32]],
) -> dict[str, float]:
    """The scores, in percent, of one classifier, of its start's features linearly and of their neighbours; known ones
    where a cell was measured before with the same patches, settings and weights.
    """
    chosen, classes = draw_examples(patches, config), len(patches.classes)
    told = [msgspec.structs.replace(config, weights=""), transfer.tell_start(start.weights)[0] or start.weights]
    identity = hashlib.sha256(msgspec.json.encode([*told, fingerprint(patches, chosen), truth.hash])).hexdigest()
    file = folder / "cells" / f"{start.name}-{config.examples}-{config.subset}.json".replace(" ", "-").replace("/", "-")
    known = msgspec.json.decode(file.read_bytes()) if file.exists() else {}
    if known.get("of") == identity:
        return dict(known["scores"])
    run = folder / "cells" / "run"
    shutil.rmtree(run, ignore_errors=True)
    transfer.train(config, patches, natural, run, world, lambda name, steps: lambda step, loss: None)
    network = transfer.build_network(config, classes)
    checkpoint.load_into(network, checkpoint.load(run / "model.safetensors")[0], run)
    logits = apply(network.to(world.device), truth, config.window)
    scores = dict(rate(logits.astype(np.float64), truth.labels))
    scores |= probe(config, patches, chosen, truth, world, kept)
    percent = {name: round(100 * value, 3) for name, value in scores.items()}
    shutil.rmtree(run)
    with replace_file(file) as beside:
        beside.write_bytes(msgspec.json.encode({"of": identity, "scores": percent}))
    return percent


def probe(
    config: TransferConfig,
    patches: LabelledPatches,
    chosen: NDArray[np.int64],
    truth: Test,
    world: World,
    kept: dict[str, NDArray[np.float32]],
) -> dict[str, float]:
    """The accuracy of the start's features as they are, each way. What it gives of tested patches is `kept`."""
    torch.manual_seed(config.seed)  # as where it was trained
    network = transfer.build_network(config, len(patches.classes))
    transfer.load_start(network, config.encoder, config.weights)
    encoder = network.encoder.to(world.device)
    key = f"{config.encoder} {config.weights} {config.seed if config.weights == RANDOM else ''}"
    if key not in kept:
        kept[key] = apply(encoder, truth, config.window)
    known, classes = apply(encoder, Test(patches, chosen), config.window), len(patches.classes)
    said = {name: way(known, patches.labels[chosen], kept[key], classes) for name, way in WAYS.items()}
    return {name: float((each.argmax(1) == truth.labels).mean()) for name, each in said.items()}


@torch.inference_mode()
def apply(network: nn.Module, test: Test, window: int) -> NDArray[np.float32]:
    """What a network in evaluation mode gives of patches, `[N, ...]`."""
    place = next(network.eval().parameters()).device
    return np.concatenate([network(batch.to(place)).float().cpu().numpy() for batch in batches(test, window)])


def batches(test: Test, window: int) -> Iterator[Tensor]:
    """The patches as networks take them."""
    for first in range(0, len(test.chosen), BATCH):
        pixels = [read_patch(test.patches, int(at), window) for at in test.chosen[first : first + BATCH]]
        yield torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float()


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
