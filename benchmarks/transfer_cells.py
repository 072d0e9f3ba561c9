"""One classifier of a benchmark of transfer, trained and scored; several processes train as many at once.

Nothing of it is kept but its scores, which a later call finds again by what it learned from, its settings and weights.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from msgspec import UNSET
from numpy.typing import NDArray
from torch import Tensor, nn

from glassrt.engine.errors import DatasetError
from glassrt.engine.files import replace_file
from glassrt.training import checkpoint
from glassrt.training.datasets.labelled_patches import LabelledPatches
from glassrt.training.evaluations.patches import rate
from glassrt.training.methods import transfer
from glassrt.training.methods.transfer import TransferConfig
from glassrt.training.networks.encoders import RANDOM
from glassrt.training.patch_sets import draw_examples, fingerprint, load_patches, read_patch, tell_mpp
from glassrt.training.probe import classify_by_neighbours, classify_linearly
from glassrt.training.world import World

TESTED = 250  # patches of each class of the split `test` at most
BATCH = 64
WAYS: dict[str, Callable[..., NDArray[np.float32]]] = {
    "linear probe": classify_linearly,
    "nearest neighbours": classify_by_neighbours,
}


class Start(NamedTuple):
    """An encoder and the weights that it starts from."""

    name: str
    encoder: str
    weights: str


class Cell(NamedTuple):
    """A start with so many patches of each class, which `repeat` chooses; it is the seed as well."""

    start: Start
    examples: int
    repeat: int


class Test(NamedTuple):
    """Patches, the numbers of those that are meant, and what tells these from others."""

    patches: LabelledPatches
    chosen: NDArray[np.int64]
    hash: str = ""

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.patches.labels[self.chosen]


class Cells:
    """The patches that all cells learn from, `most` of each class, and those that they are scored on."""

    def __init__(
        self, config: TransferConfig, most: int, data: Path, natural: Path, folder: Path, world: World
    ) -> None:
        """Raises DatasetError."""
        self.config, self.natural, self.folder, self.world = config, natural, folder, world
        self.patches = load_patches(msgspec.structs.replace(config, examples=most), data)
        self.truth = find_test(config, self.patches, data)
        self._kept: dict[str, NDArray[np.float32]] = {}

    def score(self, cell: Cell) -> dict[str, float]:
        """The scores, in percent, of one classifier, of its start's features linearly and of their neighbours; known
        ones where a cell was measured before with the same patches, settings and weights.
        """
        start = cell.start
        config = msgspec.structs.replace(
            self.config, encoder=start.encoder, weights=start.weights, pretraining=UNSET, examples=cell.examples,
            subset=cell.repeat, seed=cell.repeat,
        )  # fmt: skip
        chosen = draw_examples(self.patches, config)
        told = [msgspec.structs.replace(config, weights=""), transfer.tell_start(start.weights)[0] or start.weights]
        found = msgspec.json.encode([*told, fingerprint(self.patches, chosen), self.truth.hash])
        identity = hashlib.sha256(found).hexdigest()
        name = f"{start.name}-{cell.examples}-{cell.repeat}".replace(" ", "-").replace("/", "-")
        file = self.folder / "cells" / f"{name}.json"
        known = msgspec.json.decode(file.read_bytes()) if file.exists() else {}
        if known.get("of") == identity:
            return dict(known["scores"])
        run = self.folder / "cells" / f"{name}-run"
        shutil.rmtree(run, ignore_errors=True)
        scores = {**self._train(config, run), **self._probe(config, chosen)}
        percent = {name: round(100 * value, 3) for name, value in scores.items()}
        shutil.rmtree(run)
        with replace_file(file) as beside:
            beside.write_bytes(msgspec.json.encode({"of": identity, "scores": percent}))
        return percent

    def _train(self, config: TransferConfig, run: Path) -> dict[str, float]:
        transfer.train(config, self.patches, self.natural, run, self.world, lambda name, steps: lambda step, loss: None)
        network = transfer.build_network(config, len(self.patches.classes))
        checkpoint.load_into(network, checkpoint.load(run / "model.safetensors")[0], run)
        logits = apply(network.to(self.world.device), self.truth, config.window)
        return dict(rate(logits.astype(np.float64), self.truth.labels))

    def _probe(self, config: TransferConfig, chosen: NDArray[np.int64]) -> dict[str, float]:
        """The accuracy of the start's features as they are, each way. What it gives of tested patches is kept."""
        torch.manual_seed(config.seed)  # as where it was trained
        classes = len(self.patches.classes)
        network = transfer.build_network(config, classes)
        transfer.load_start(network, config.encoder, config.weights)
        encoder = network.encoder.to(self.world.device)
        key = f"{config.encoder} {config.weights} {config.seed if config.weights == RANDOM else ''}"
        if key not in self._kept:
            self._kept[key] = apply(encoder, self.truth, config.window)
        known = apply(encoder, Test(self.patches, chosen), config.window)
        labels = self.patches.labels[chosen]
        said = {name: way(known, labels, self._kept[key], classes) for name, way in WAYS.items()}
        return {name: float((each.argmax(1) == self.truth.labels).mean()) for name, each in said.items()}


def score_all(
    cells: Cells, asked: Sequence[Cell], processes: int, again: tuple[object, ...]
) -> Iterator[dict[str, float]]:
    """The scores of all cells in their order, as they come; so many processes make their `Cells` of `again` and have a
    thread each: threads of one process would wait for each other most of the time, so small are the batches.
    """
    if processes == 1:
        yield from map(cells.score, asked)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), begin, again) as pool:
        try:
            yield from pool.map(score_one, asked)
        finally:
            pool.shutdown(cancel_futures=True)


def begin(*again: object) -> None:
    """What a process begins with."""
    global here
    torch.set_num_threads(1)
    here = Cells(*again)  # type: ignore[arg-type]


here: Cells


def score_one(cell: Cell) -> dict[str, float]:
    """The scores of a cell by the `Cells` of this process."""
    return here.score(cell)


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
