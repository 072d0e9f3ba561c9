"""A bundle for bags on a labelled set: how well it tells bags and, where their labels are known, instances.

Instances of all tested bags are pooled, each on its own as a bag of one is. Thresholds are 0.5 and, where a fold has
validation bags, the one that is best there.
"""

import math
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.kinds.mil import Mil
from glassrt.engine.errors import DatasetError
from glassrt.engine.flow.bag import open_mean
from glassrt.engine.geometry.boxes import bands
from glassrt.engine.runtimes.protocol import Backend
from glassrt.training import bag_metrics
from glassrt.training.bag_folds import FOLDS, fold_bags
from glassrt.training.datasets import mnist_bags
from glassrt.training.datasets.bag import LabelledBag

TESTED = 1000  # bags of digits, as Distill-to-Label's section III.B tests on
FOLD = re.compile(r"(?P<fold>\d+)(:(?P<seed>\d+))?")

Progress = Callable[[int, int], None]


class Told(NamedTuple):
    """What a bundle says of a bag of K: its log-odds, those of its instances `[K]`, and their attention `[K]`."""

    bag: float
    instances: NDArray[np.float64]
    attention: NDArray[np.float32]


def score(
    bags_of: ModuleType, bundle: Bundle, backend: Backend, data: Path, split: str, progress: Progress,
    left_out: Collection[Path] = (),
) -> tuple[dict[str, float], int]:  # fmt: skip
    """Scores from 0 to 1 by name on the bags that a fold tests, and their number.

    `split` is `FOLD` or `FOLD:SEED`: the one that the bundle left out, from 0 to 4, of the folds drawn with a seed (1).
    Raises DatasetError.
    """
    manifest = find_bags(bundle, bags_of.CLASSES)
    found = FOLD.fullmatch(split)
    if found is None or int(found["fold"]) >= FOLDS:
        raise DatasetError(
            f"--split {split!r}: name the fold that the bundle left out, 0 to {FOLDS - 1}, or FOLD:SEED of folds of "
            f"another seed than 1 (`glassrt info {bundle.path}` tells)"
        )
    bags: list[LabelledBag] = bags_of.read_bags(data)
    fold = fold_bags(bags, int(found["seed"] or 1))[int(found["fold"])]
    told = tell_all(bags, [*fold.validation, *fold.test], manifest, backend, progress)
    validation, test = ([(bags[at], told[at]) for at in part] for part in (fold.validation, fold.test))
    return summarise(validation, test), len(test)


def score_digits(
    bundle: Bundle, backend: Backend, data: Path, split: str, progress: Progress, left_out: Collection[Path] = ()
) -> tuple[dict[str, float], int]:
    """The same on a thousand bags of digits that MNIST tests on; `split` is `SIZE` or `SIZE:SEED`, their mean size."""
    manifest = find_bags(bundle, mnist_bags.CLASSES)
    found = FOLD.fullmatch(split)
    if found is None:
        raise DatasetError(f"--split {split!r}: name the mean size of bags, or SIZE:SEED for others than of seed 1")
    digits = mnist_bags.read_digits(data, "test")
    bags = mnist_bags.make_bags(digits, TESTED, int(found["fold"]), int(found["seed"] or 1), balanced=False)
    told = tell_all(bags, range(len(bags)), manifest, backend, progress)
    return summarise([], [(bag, told[at]) for at, bag in enumerate(bags)]), len(bags)


def find_bags(bundle: Bundle, classes: Sequence[str]) -> Mil:
    """The manifest of a bundle for such bags. Raises DatasetError for another."""
    manifest = bundle.manifest
    if not isinstance(manifest, Mil) or manifest.takes != "tiles":
        raise DatasetError(f"{bundle.path} is of the kind {manifest.kind}, which tells nothing of bags of pictures")
    names = tuple(info.name for info in manifest.classes)
    if names != tuple(classes):
        raise DatasetError(f"{bundle.path} tells {', '.join(names)} apart; the set needs {', '.join(classes)}")
    return manifest


def tell_all(
    bags: Sequence[LabelledBag], which: Sequence[int], manifest: Mil, backend: Backend, progress: Progress
) -> dict[int, Told]:
    """What a bundle says of some bags, by their numbers."""
    told = {}
    for done, at in enumerate(map(int, which), start=1):
        told[at] = tell(bags[at], manifest, backend)
        progress(done, len(which))
    return told


def tell(bag: LabelledBag, manifest: Mil, backend: Backend) -> Told:
    """What a bundle says of one bag of pictures of its window's size. Raises DatasetError for other pictures."""
    side = manifest.window
    if bag.instances.shape[1:] != (side, side, 3):
        height, width = bag.instances.shape[1:3]
        raise DatasetError(f"{bag.name} has instances of {width} x {height} px, {manifest.name} takes {side} x {side}")
    given = np.zeros((backend.batch, side, side, 3), np.uint8)
    mean, parts = open_mean(manifest.pooling), []
    for top, bottom in bands(len(bag.instances), backend.batch):
        count = bottom - top
        given[:count] = bag.instances[top:bottom]
        outputs = backend.infer({"tile": given})
        parts.append((outputs["scores"][:count], outputs["logits"][:count]))
        mean.add(*parts[-1])
    scores, logits = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Told(float(mean.mean()[0]), logits[:, 0].astype(np.float64), mean.weigh(scores))


Pairs = Sequence[tuple[LabelledBag, Told]]


def summarise(validation: Pairs, test: Pairs) -> dict[str, float]:
    """The figures of the tested bags, with thresholds of those to choose by."""
    whole = bag_metrics.score([told.bag for _, told in test], [bag.label for bag, _ in test])
    scores = {"bag accuracy": whole.accuracy, "bag F1": whole.f1, "bag AUROC": whole.auroc}
    scores["bag calibration error"] = whole.calibration_error
    if any(bag.instance_labels is None for bag, _ in test):
        return scores
    logits, labels = pool(test)
    single = bag_metrics.score(logits, labels)
    scores |= {"accuracy": single.accuracy, "F1": single.f1, "AUROC": single.auroc}
    if validation:
        chosen = bag_metrics.score(logits, labels, bag_metrics.choose_threshold(*pool(validation)))
        scores |= {"accuracy, threshold of validation": chosen.accuracy, "F1, threshold of validation": chosen.f1}
    positive = [(bag, told) for bag, told in test if bag.label]
    scores["AUROC in positive bags"] = bag_metrics.score(*pool(positive)).auroc if positive else math.nan
    known = [bag.instance_labels for bag, _ in test if bag.instance_labels is not None]
    scores["attention AUROC"] = bag_metrics.attention_auroc([told.attention for _, told in test], known)
    scores["effective share"] = float(np.mean([bag_metrics.effective_share(told.attention) for _, told in test]))
    return scores


def pool(pairs: Pairs) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The log-odds and labels of the instances of all bags."""
    labels = [bag.instance_labels for bag, _ in pairs if bag.instance_labels is not None]
    return np.concatenate([told.instances for _, told in pairs]), np.concatenate(labels)
