"""Which bags are learned from: the published sets, or the features of one's own slides, and their parts."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from msgspec import UNSET, Meta, UnsetType

from glassrt.engine.bundles.kinds.segmentation import check_classes
from glassrt.engine.bundles.parts import ClassInfo
from glassrt.training.bag_folds import fold_bags
from glassrt.training.config import Count, Number, Strict
from glassrt.training.datasets import crchisto, features, mnist_bags, ucsb
from glassrt.training.datasets.bag import LabelledBag
from glassrt.training.datasets.stored import StoredInstances

CLASSES = {"mnist-bags": mnist_bags.CLASSES, "crchisto": crchisto.CLASSES, "ucsb": ucsb.CLASSES}
SIDES = {"mnist-bags": 28, "crchisto": crchisto.SIDE, "ucsb": ucsb.SIDE}
STORED = "features"  # the set that is no published one
MNIST_TESTED = 1000  # bags, as Distill-to-Label's section III.B tests on


class MnistConfig(Strict, frozen=True, kw_only=True):
    """Bags of MNIST: how many, of what mean size, as many positive as negative ones or as chance has it."""

    bags: Count
    size: Annotated[float, Meta(ge=1)]
    balanced: bool
    seed: Number = 1


class FoldConfig(Strict, frozen=True, kw_only=True):
    """Which of the five folds, drawn with this seed, is left out."""

    fold: Annotated[int, Meta(ge=0, le=4)] = 0
    seed: Number = 1


class BagSet(Strict, frozen=True, kw_only=True):
    """Which bags are learned from.

    `features` are those of one's own slides (`datasets/features.py`), whose labels are `classes`, the negative one
    first; all of them are learned from where no [folds] say which to leave out.
    """

    dataset: Literal["mnist-bags", "crchisto", "ucsb", "features"]
    mnist: MnistConfig | UnsetType = UNSET
    folds: FoldConfig | UnsetType = UNSET
    classes: Annotated[tuple[str, ...], Meta(min_length=2, max_length=255)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        given, other = ("mnist", "folds") if self.dataset == "mnist-bags" else ("folds", "mnist")
        lacks = getattr(self, given) is UNSET and self.dataset != STORED
        if lacks or getattr(self, other) is not UNSET:
            needs = "takes" if self.dataset == STORED else "needs"
            raise ValueError(f"dataset {self.dataset} {needs} [{given}] and has no [{other}]")
        if (self.classes is UNSET) != (self.dataset != STORED):
            needs = "has `classes` of its own" if self.dataset != STORED else "needs `classes`, the negative one first"
            raise ValueError(f"dataset {self.dataset} {needs}")
        check_classes([ClassInfo(name, (0, 0, 0)) for name in self.class_names])  # now, not when all is trained

    @property
    def class_names(self) -> tuple[str, ...]:
        """What bags are told apart as; the negative class is the first."""
        return CLASSES[self.dataset] if self.classes is UNSET else self.classes


class Parts(NamedTuple):
    """Bags to learn from, to choose thresholds by, and to score."""

    train: Sequence[LabelledBag]
    validation: Sequence[LabelledBag]
    test: Sequence[LabelledBag]


def load_bags(config: BagSet, data: Path) -> Parts:
    """The bags of the set in their parts. MNIST's have no validation, and 1000 test bags of other digits; where no fold
    is left out, all are to learn from.

    Raises DatasetError, SlideError for files that hold no features, and TrainingError for folds that cannot be made.
    """
    if config.mnist is not UNSET:
        asked = config.mnist
        made = (
            mnist_bags.make_bags(mnist_bags.read_digits(data, split), count, asked.size, asked.seed, asked.balanced)
            for split, count in (("train", asked.bags), ("test", MNIST_TESTED))
        )
        train, test = made
        return Parts(train, (), test)
    if config.dataset == STORED:
        bags = features.read_bags(data, config.class_names)
    else:
        bags = (crchisto if config.dataset == "crchisto" else ucsb).read_bags(data)
    if config.folds is UNSET:
        return Parts(bags, (), ())
    fold = fold_bags(bags, config.folds.seed)[config.folds.fold]
    return Parts(*([bags[index] for index in part] for part in fold))


def feature_length(bags: Sequence[LabelledBag]) -> int | None:
    """D of bags of features that were stored; None of bags of pictures."""
    instances = bags[0].instances
    return instances.shape[1] if isinstance(instances, StoredInstances) else None


def digest(bags: Sequence[LabelledBag]) -> str:
    """The sha256 of bags' names, labels and pixels: a run belongs to those it began with.

    Of features that were stored, which may be too many to read for this, of each bag's first and last ones.
    """
    content = hashlib.sha256()
    for bag in bags:
        content.update(f"{bag.name} {bag.label} ".encode() + tell_content(bag))
    return content.hexdigest()


def fingerprint(bag: LabelledBag) -> str:
    """Twelve digits that tell a bag from others, whatever it is called and labelled, by what `digest` looks at."""
    return hashlib.sha256(tell_content(bag)).hexdigest()[:12]


def tell_content(bag: LabelledBag) -> bytes:
    """A bag's shape and pixels, or of stored features the first and the last ones."""
    head = f"{bag.instances.shape}\n".encode()
    if isinstance(bag.instances, StoredInstances):
        return head + bag.instances.read(slice(1)).tobytes() + bag.instances.read(slice(-1, None)).tobytes()
    return head + bag.instances.tobytes()
