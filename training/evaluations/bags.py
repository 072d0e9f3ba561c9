"""A bundle for bags on a labelled set: how well it tells bags and, where their labels are known, instances.

Instances of all tested bags are pooled, each on its own as a bag of one is. Thresholds are 0.5 and, where a fold has
validation bags, the one that is best there. Of more than two classes each is held against the rest.
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
from glassrt.engine.bundles.parts import LONGEST_NAME
from glassrt.engine.errors import DatasetError
from glassrt.engine.flow.bag import open_mean
from glassrt.engine.geometry.boxes import bands
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.tasks.stored import refuse_made_otherwise
from glassrt.training import bag_metrics
from glassrt.training.bag_folds import FOLDS, fold_bags
from glassrt.training.bag_sets import fingerprint
from glassrt.training.datasets import features, mnist_bags
from glassrt.training.datasets.bag import LabelledBag
from glassrt.training.datasets.stored import StoredInstances
from glassrt.training.slide_metrics import roc_auc

TESTED = 1000  # bags of digits, as Distill-to-Label's section III.B tests on
ALL = "all"
FOLD = re.compile(r"(?P<fold>\d+)(:(?P<seed>\d+))?")

Progress = Callable[[int, int], None]


class Told(NamedTuple):
    """What a bundle says of a bag of K: its logits `[1 or C]`, its instances' `[K, 1 or C]` and attention `[K]`."""

    bag: NDArray[np.float64]
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
    number, seed = parse_fold(split, bundle)
    bags: list[LabelledBag] = bags_of.read_bags(data)
    fold = fold_bags(bags, seed)[number]
    refuse_learned(manifest, [bags[at] for at in (*fold.validation, *fold.test)], bundle)
    told = tell_all(bags, [*fold.validation, *fold.test], manifest, backend, progress)
    validation, test = ([(bags[at], told[at]) for at in part] for part in (fold.validation, fold.test))
    return summarise(validation, test), len(test)


def score_features(
    bundle: Bundle, backend: Backend, data: Path, split: str, progress: Progress, left_out: Collection[Path] = ()
) -> tuple[dict[str, float], int]:
    """The same on features of one's own slides, of the bundle's classes; the split `all` is every one of them, of which
    none may have been learned from.
    """
    manifest = bundle.manifest
    if not isinstance(manifest, Mil) or manifest.takes != "features":
        raise DatasetError(f"{bundle.path} takes no features that were stored before: name a bundle of a head alone")
    fold = None if split == ALL else parse_fold(split, bundle, f", or {ALL} for slides that it never saw")
    bags = features.read_bags(data, [info.name for info in manifest.classes])
    which = list(range(len(bags))) if fold is None else fold_bags(bags, fold[1])[fold[0]].test.tolist()
    refuse_learned(manifest, [bags[at] for at in which], bundle)
    for stored in (bags[at].instances for at in which):
        if isinstance(stored, StoredInstances):
            refuse_made_otherwise(stored.path, stored.making, manifest)
    told = tell_all(bags, which, manifest, backend, progress)
    return summarise([], [(bags[at], told[at]) for at in which]), len(which)


def refuse_learned(manifest: Mil, tested: Sequence[LabelledBag], bundle: Bundle) -> None:
    """Raise DatasetError where a bundle learned from some of the bags that are to test it."""
    known = {*manifest.learned_from}
    learned = [bag.name for bag in tested if known and fingerprint(bag) in known]
    if learned:
        raise DatasetError(
            f"{bundle.path} learned from {len(learned)} of the {len(tested)} bags that would test it, as "
            f"{learned[0][:LONGEST_NAME]!r}: name the fold that it left out (`glassrt info {bundle.path}` tells), or "
            "bags that it never saw"
        )


def parse_fold(split: str, bundle: Bundle, more: str = "") -> tuple[int, int]:
    """The fold's number and the seed that folds are drawn with, of `FOLD` or `FOLD:SEED`. Raises DatasetError, whose
    line names what `more` there is to choose.
    """
    found = FOLD.fullmatch(split)
    if found is None or int(found["fold"]) >= FOLDS:
        raise DatasetError(
            f"--split {split!r}: name the fold that the bundle left out, 0 to {FOLDS - 1}, or FOLD:SEED of folds of "
            f"another seed than 1 (`glassrt info {bundle.path}` tells){more}"
        )
    return int(found["fold"]), int(found["seed"] or 1)


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
    """What a bundle says of one bag. Raises DatasetError for instances that it does not take."""
    (taken,) = manifest.whole.inputs
    if bag.instances.shape[1:] != taken.sized(1)[1:]:
        raise DatasetError(
            f"{bag.name} has instances of {describe(bag.instances.shape)}, {manifest.name} takes those of "
            f"{describe(taken.sized(1))}"
        )
    given = np.zeros(taken.sized(backend.batch), taken.dtype)
    mean, found = open_mean(manifest.pooling), []
    for part in bag.instances.parts() if isinstance(bag.instances, StoredInstances) else (bag.instances,):
        for top, bottom in bands(len(part), backend.batch):
            count = bottom - top
            given[:count] = part[top:bottom]
            outputs = backend.infer({taken.name: given})
            found.append((outputs["scores"][:count], outputs["logits"][:count]))
            mean.add(*found[-1])
    scores, logits = (np.concatenate(each) for each in zip(*found, strict=True))
    return Told(mean.mean(), logits.astype(np.float64), mean.weigh(scores))


def describe(shape: Sequence[int]) -> str:
    """What instances of `[K, H, W, 3]` or `[K, D]` are, in words."""
    return f"{shape[1]} numbers" if len(shape) == 2 else f"{shape[2]} x {shape[1]} px"


Pairs = Sequence[tuple[LabelledBag, Told]]


def summarise(validation: Pairs, test: Pairs) -> dict[str, float]:
    """The figures of the tested bags, with thresholds of those to choose by."""
    logits, truth = np.array([told.bag for _, told in test]), np.array([bag.label for bag, _ in test])
    if logits.shape[1] > 1:
        return summarise_classes(logits, truth)
    whole = bag_metrics.score(logits[:, 0], truth)
    scores = {"bag accuracy": whole.accuracy, "bag F1": whole.f1, "bag AUROC": whole.auroc}
    scores["bag calibration error"] = whole.calibration_error
    if any(bag.instance_labels is None for bag, _ in test):
        return scores
    single_logits, labels = pool(test)
    single = bag_metrics.score(single_logits, labels)
    scores |= {"accuracy": single.accuracy, "F1": single.f1, "AUROC": single.auroc}
    if validation:
        chosen = bag_metrics.score(single_logits, labels, bag_metrics.choose_threshold(*pool(validation)))
        scores |= {"accuracy, threshold of validation": chosen.accuracy, "F1, threshold of validation": chosen.f1}
    positive = [(bag, told) for bag, told in test if bag.label]
    scores["AUROC in positive bags"] = bag_metrics.score(*pool(positive)).auroc if positive else math.nan
    known = [bag.instance_labels for bag, _ in test if bag.instance_labels is not None]
    scores["attention AUROC"] = bag_metrics.attention_auroc([told.attention for _, told in test], known)
    scores["effective share"] = float(np.mean([bag_metrics.effective_share(told.attention) for _, told in test]))
    return scores


def summarise_classes(logits: NDArray[np.float64], truth: NDArray[np.int64]) -> dict[str, float]:
    """The figures of bags of several classes, whose logits are `[B, C]`: F1 and AUROC are means over the classes."""
    likeliest = logits.argmax(1)
    f1, auroc = [], []
    for number in range(logits.shape[1]):
        predicted, positive = likeliest == number, truth == number
        f1.append(bag_metrics.f1_of(int((predicted & positive).sum()), int(predicted.sum()), int(positive.sum())))
        odds = logits[:, number] - np.logaddexp.reduce(np.delete(logits, number, 1), axis=1)
        auroc.append(roc_auc(odds, positive))
    scores = {"bag accuracy": float((likeliest == truth).mean())}
    return scores | {"mean bag F1": float(np.mean(f1)), "mean bag AUROC": float(np.mean(auroc))}


def pool(pairs: Pairs) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The log-odds and labels of the instances of all bags."""
    labels = [bag.instance_labels for bag, _ in pairs if bag.instance_labels is not None]
    return np.concatenate([told.instances[:, 0] for _, told in pairs]), np.concatenate(labels)
