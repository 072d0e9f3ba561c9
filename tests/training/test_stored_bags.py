"""Distill-to-Label on features that were stored: what settings allow, what a run depends on, and that it learns."""

from pathlib import Path

import h5py
import msgspec
import numpy as np
import pytest
import torch
from stored_slides import LENGTH, store_slides

from glassrt.engine.errors import TrainingError
from glassrt.training import checkpoint
from glassrt.training.bag_changes import Regularisation
from glassrt.training.bag_sets import digest, feature_length, load_bags
from glassrt.training.batches import Bags
from glassrt.training.commands.options import CONFIGS
from glassrt.training.config import Schedule, load_config
from glassrt.training.datasets.bag import LabelledBag
from glassrt.training.datasets.stored import StoredInstances
from glassrt.training.methods import distill_to_label
from glassrt.training.methods.distill_to_label import STAGES, DistillConfig, FoldConfig
from glassrt.training.slide_metrics import roc_auc
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))
CLASSES = ("benign", "malign")
SHORT = Schedule(batch=2, steps=4, optimiser="adam", learning_rate=3e-3, weight_decay=1e-4, save_every=2)
CONFIG = DistillConfig(
    dataset="features", classes=CLASSES, folds=FoldConfig(fold=1), attention=16, most_instances=40,
    mil=SHORT, teacher=SHORT, student=SHORT, regularisation=Regularisation(realisations=2),
)  # fmt: skip


def config(**changes) -> DistillConfig:
    return msgspec.structs.replace(CONFIG, **changes)


def no_stage(name: str, steps: int):
    return lambda step, loss: None


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    np.savez(folder / "shown.npz", **store_slides(folder, CLASSES, 15))  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def bags(slides: Path) -> list[LabelledBag]:
    return [*load_bags(CONFIG, slides).train]


def test_the_shipped_settings_make_a_head() -> None:
    settings = load_config(CONFIGS / "distill_features.toml", DistillConfig)
    network = distill_to_label.build_network(settings, 7).eval()
    assert network(Bags(torch.zeros(5, 7), [2, 3])).bags.shape == (2, 1)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"classes": msgspec.UNSET}, "features needs `classes`, the negative one first"),
        ({"classes": ["benign"]}, "length >= 2"),
        ({"classes": ["benign", "Benign"]}, "a class is named twice"),
        ({"classes": ["benign", "tissue"]}, "'tissue' has the name of an area"),
        ({"classes": ["benign", " malign"]}, "must be named in 1 to 64"),
        ({"encoder": "conv2"}, "features has no `encoder`"),
        ({"turn": True}, "has no pixels: leave `turn` and `colour` out"),
        ({"colour": "stain"}, "has no pixels"),
        ({"mnist": {"bags": 5, "size": 10, "balanced": True}}, r"has no \[mnist\]"),
    ],
)
def test_settings_that_features_have_no_use_for_are_refused(changes: dict, fault: str) -> None:
    values = {**msgspec.to_builtins(CONFIG), **changes}
    values = {name: value for name, value in values.items() if value is not msgspec.UNSET}
    with pytest.raises(msgspec.ValidationError, match=fault):
        msgspec.convert(values, DistillConfig)


def test_without_folds_every_slide_is_learned_from(slides: Path) -> None:
    whole = load_bags(config(folds=msgspec.UNSET), slides)
    assert (len(whole.train), len(whole.validation), len(whole.test)) == (30, 0, 0)
    parts = load_bags(CONFIG, slides)
    assert {len(parts.train) + len(parts.validation) + len(parts.test)} == {30}
    assert sum(map(len, parts)) == len({bag.name for part in parts for bag in part})


def test_a_large_slide_gives_some_of_its_tiles_in_their_order(bags: list) -> None:
    large = next(bag for bag in bags if bag.instances.shape[0] > 40)
    drawn = distill_to_label.draw_bag(large, CONFIG, np.random.default_rng(1))
    chosen = np.sort(np.random.default_rng(1).choice(large.instances.shape[0], 40, replace=False))
    np.testing.assert_array_equal(drawn.inputs, large.instances.read(slice(None))[chosen])
    whole = distill_to_label.draw_bag(large, config(most_instances=msgspec.UNSET), np.random.default_rng(1))
    np.testing.assert_array_equal(whole.inputs, large.instances.read(slice(None)))


def test_what_a_run_belongs_to_is_told_without_reading_all(bags: list, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 0
    read = StoredInstances.read

    def counted(self: StoredInstances, chosen: slice) -> np.ndarray:
        nonlocal rows
        found = read(self, chosen)
        rows += len(found)
        return found

    monkeypatch.setattr(StoredInstances, "read", counted)
    whole = digest(bags)
    assert rows == 2 * len(bags)
    assert digest(bags) == whole
    for other in (bags[:-1], [bags[0]._replace(label=1 - bags[0].label), *bags[1:]]):
        assert digest(other) != whole


def test_a_run_resumes_exactly_and_refuses_other_features(bags: list, slides: Path, tmp_path: Path) -> None:
    distill_to_label.train(CONFIG, bags, tmp_path / "straight", ALONE, no_stage)
    for stage in STAGES:

        def stop(name: str, steps: int, stage: str = stage):
            def told(step: int, loss: float) -> None:
                if name == stage and step == 2:
                    raise KeyboardInterrupt

            return told

        with pytest.raises(KeyboardInterrupt):
            distill_to_label.train(CONFIG, bags, tmp_path / "broken", ALONE, stop)
    distill_to_label.train(CONFIG, bags, tmp_path / "broken", ALONE, no_stage)
    for stage in STAGES:
        weights, again = (
            checkpoint.load(tmp_path / run / stage / "model.safetensors")[0] for run in ("straight", "broken")
        )
        assert all(torch.equal(value, again[name]) for name, value in weights.items()), stage
    store_slides(tmp_path, CLASSES, 15)
    distill_to_label.train(CONFIG, [*load_bags(CONFIG, tmp_path).train], tmp_path / "broken", ALONE, no_stage)
    with h5py.File(tmp_path / f"{bags[3].name}.h5", "a") as file:
        file["features"][0, 0] += 1
    other = [*load_bags(CONFIG, tmp_path).train]
    with pytest.raises(TrainingError, match=r"mil/model\.safetensors was written with other settings or data"):
        distill_to_label.train(CONFIG, other, tmp_path / "broken", ALONE, no_stage)


def test_it_learns_which_slides_are_positive_and_by_which_tiles(slides: Path, tmp_path: Path) -> None:
    longer = msgspec.structs.replace(SHORT, steps=200, average_decay=0.9)
    parts = load_bags(CONFIG, slides)
    settings = config(mil=longer, teacher=longer, student=msgspec.structs.replace(longer, steps=100))
    distill_to_label.train(settings, parts.train, tmp_path, ALONE, no_stage)
    tested = [*parts.validation, *parts.test]
    given = [bag.instances.read(slice(None)) for bag in tested if isinstance(bag.instances, StoredInstances)]
    with np.load(slides / "shown.npz") as shown:
        truth = np.concatenate([shown[Path(bag.name).name] for bag in tested])
    for stage in STAGES:
        file = tmp_path / stage / "model.safetensors"
        network = distill_to_label.build_network(settings, feature_length(tested)).eval()
        checkpoint.load_into(network, checkpoint.load(file)[0], file)
        assert network.input_std.shape == (1, LENGTH)
        with torch.no_grad():
            predicted = network(Bags(torch.from_numpy(np.concatenate(given)), [len(each) for each in given]))
        assert roc_auc(predicted.bags[:, 0].numpy(), [bag.label for bag in tested]) > 0.9, stage
        assert roc_auc(predicted.instances[:, 0].numpy(), truth) > 0.9, stage
