"""Distill-to-Label: what bags give, how stages follow each other, and that a run resumes exactly."""

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from glassrt.engine.errors import TrainingError
from glassrt.training import checkpoint
from glassrt.training.bag_changes import Regularisation
from glassrt.training.bag_sets import SIDES, digest
from glassrt.training.bag_statistics import measure
from glassrt.training.batches import Bags
from glassrt.training.commands.options import CONFIGS
from glassrt.training.config import Schedule, load_config
from glassrt.training.datasets.bag import LabelledBag
from glassrt.training.methods import distill_to_label
from glassrt.training.methods.distill_to_label import DistillConfig, FoldConfig
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))
SHORT = Schedule(batch=2, steps=4, optimiser="adam", learning_rate=1e-3, weight_decay=0.0, save_every=2)
CONFIG = DistillConfig(
    dataset="crchisto", folds=FoldConfig(), encoder="conv2", attention=8, most_instances=6,
    mil=SHORT, teacher=SHORT, student=SHORT, regularisation=Regularisation(realisations=2),
)  # fmt: skip


def config(**changes) -> DistillConfig:
    return msgspec.structs.replace(CONFIG, **changes)


@pytest.fixture(scope="module")
def bags() -> list[LabelledBag]:
    """Bags of nuclei, the first half of a positive bag's being red."""
    random = np.random.default_rng(0)
    made = []
    for number in range(8):
        count = 3 + 2 * number
        instances = random.integers(90, 160, (count, 27, 27, 3)).astype(np.uint8)
        truth = (np.arange(count) < count // 2).astype(np.int64) * (number % 2)
        instances[truth == 1, ..., 0] = 250
        made.append(LabelledBag(f"bag {number}", f"{number}", number % 2, instances, truth, None))
    return made


def no_stage(name: str, steps: int):
    return lambda step, loss: None


@pytest.mark.parametrize(
    ("name", "dataset"),
    [("distill_crchisto.toml", "crchisto"), ("distill_ucsb.toml", "ucsb"), ("distill_mnist.toml", "mnist-bags")],
)
def test_shipped_settings_make_a_network(name: str, dataset: str) -> None:
    settings = load_config(CONFIGS / name, DistillConfig)
    assert settings.dataset == dataset
    side = SIDES[dataset]
    network = distill_to_label.build_network(settings).eval()
    predicted = network(Bags(torch.zeros(5, 3, side, side), [2, 3]))
    assert predicted.bags.shape == (2, 1)
    assert predicted.attention.shape == (5,)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"folds": msgspec.UNSET}, r"needs \[folds\]"),
        ({"mnist": {"bags": 5, "size": 10, "balanced": True}}, r"has no \[mnist\]"),
        ({"teacher": msgspec.UNSET}, r"\[student\] needs \[teacher\]"),
        ({"teacher": msgspec.UNSET, "student": msgspec.UNSET, "mil": msgspec.UNSET}, "nothing to train"),
        ({"encoder": "lenet5"}, "lenet5 takes 28 pixels"),
        ({"encoder": msgspec.UNSET}, "dataset crchisto needs `encoder`"),
        ({"classes": ["a", "b"]}, "crchisto has `classes` of its own"),
        ({"folds": {"fold": 5}}, "fold"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict, fault: str) -> None:
    values = {**msgspec.to_builtins(CONFIG), **changes}
    values = {name: value for name, value in values.items() if value is not msgspec.UNSET}
    with pytest.raises(msgspec.ValidationError, match=fault):
        msgspec.convert(values, DistillConfig)


def test_a_large_bag_gives_some_of_its_instances_in_their_order(bags: list) -> None:
    drawn = distill_to_label.draw_bag(bags[7], config(), np.random.default_rng(1))
    assert drawn.inputs.shape == (6, 27, 27, 3)
    assert drawn.label == 1
    places = [
        next(at for at, each in enumerate(bags[7].instances) if np.array_equal(each, one)) for one in drawn.inputs
    ]
    assert places == sorted(set(places))
    whole = distill_to_label.draw_bag(bags[0], config(), np.random.default_rng(1))
    assert np.array_equal(whole.inputs, bags[0].instances)


def test_instances_are_turned_each_by_itself(bags: list) -> None:
    drawn = distill_to_label.draw_bag(bags[1], config(turn=True), np.random.default_rng(1))
    views = [
        {np.rot90(each[:, ::flip], turns).tobytes() for turns in range(4) for flip in (1, -1)}
        for each in bags[1].instances
    ]
    assert all(one.tobytes() in seen for one, seen in zip(drawn.inputs, views, strict=True))
    assert not np.array_equal(drawn.inputs, bags[1].instances)


def test_pixels_are_measured_over_all_instances(bags: list) -> None:
    pixels = measure(bags)
    every = np.concatenate([bag.instances.reshape(-1, 3) for bag in bags]).astype(np.float64)
    assert pixels.mean.numpy() == pytest.approx(every.mean(0), rel=1e-5)
    assert pixels.deviation.numpy() == pytest.approx(every.std(0), rel=1e-4)
    assert pixels.range.lowest.tolist() == every.min(0).tolist()
    assert pixels.range.highest.tolist() == every.max(0).tolist()


def test_the_student_starts_as_its_teacher(bags: list, tmp_path: Path) -> None:
    still = msgspec.structs.replace(SHORT, learning_rate=1e-30, steps=1)
    distill_to_label.train(config(student=still), bags, tmp_path, ALONE, no_stage)
    teacher, student = (checkpoint.load(tmp_path / each / "model.safetensors")[0] for each in ("teacher", "student"))
    assert all(torch.equal(value, student[name]) for name, value in teacher.items())


def test_a_run_resumes_exactly_in_every_stage(bags: list, tmp_path: Path) -> None:
    distill_to_label.train(config(), bags, tmp_path / "straight", ALONE, no_stage)
    for stage in distill_to_label.STAGES:

        def stop(name: str, steps: int, stage: str = stage):
            def told(step: int, loss: float) -> None:
                if name == stage and step == 2:
                    raise KeyboardInterrupt

            return told

        with pytest.raises(KeyboardInterrupt):
            distill_to_label.train(config(), bags, tmp_path / "broken", ALONE, stop)
    distill_to_label.train(config(), bags, tmp_path / "broken", ALONE, no_stage)
    for stage in distill_to_label.STAGES:
        weights, again = (
            checkpoint.load(tmp_path / run / stage / "model.safetensors")[0] for run in ("straight", "broken")
        )
        assert all(torch.equal(value, again[name]) for name, value in weights.items()), stage


def test_a_stage_is_trained_anew_only_for_what_it_depends_on(bags: list, tmp_path: Path) -> None:
    distill_to_label.train(config(), bags, tmp_path, ALONE, no_stage)
    other = config(distillation=msgspec.structs.replace(CONFIG.distillation, temperature=3.0))
    with pytest.raises(TrainingError, match=r"student/model\.safetensors was written with other settings"):
        distill_to_label.train(other, bags, tmp_path, ALONE, no_stage)
    with pytest.raises(TrainingError, match=r"mil/model\.safetensors was written with other settings or data"):
        distill_to_label.train(config(), bags[:6], tmp_path, ALONE, no_stage)


@pytest.mark.parametrize(
    ("name", "stage", "known"),
    [
        ("crchisto", "student", "b32b48e0b8cf4d715887336db14f7d86f2e02125085753ef840ae7376c5add3e"),
        ("ucsb", "mil", "5336e909bb380e73d489b5607ec7b944a9249e33dd92b3ef2c313500903a6203"),
        ("mnist", "teacher", "cb0d16be50a0caa83cd8beaadcb854ad378004fab7de95250a3bd97471b3e105"),
    ],
)
def test_runs_that_are_stored_know_their_settings(name: str, stage: str, known: str) -> None:
    """What identifies a run is the text that its folder holds: a setting that is added later may not stand in it."""
    settings = load_config(CONFIGS / f"distill_{name}.toml", DistillConfig)
    told = distill_to_label.identify(settings, stage, getattr(settings, stage), {"bags": "x"})  # type: ignore[arg-type]
    assert hashlib.sha256(repr(told).encode()).hexdigest() == known


def test_runs_that_are_stored_know_their_bags() -> None:
    random = np.random.default_rng(0)
    instances = [random.integers(0, 256, (3, 4, 4, 3)).astype(np.uint8) for _ in range(3)]
    bags = [LabelledBag(f"b{at}", f"{at}", at % 2, each, None, None) for at, each in enumerate(instances)]
    assert digest(bags) == "7718f4d0ae5e0aa5192154131eea400656c7f1eb1d45dc56294d1f71fe8c1933"


def test_it_learns_which_bags_are_positive_and_which_instances(bags: list, tmp_path: Path) -> None:
    longer = msgspec.structs.replace(SHORT, steps=60, learning_rate=2e-3)
    distill_to_label.train(config(mil=longer, teacher=longer, student=longer), bags, tmp_path, ALONE, no_stage)
    for stage in distill_to_label.STAGES:
        file = tmp_path / stage / "model.safetensors"
        network = distill_to_label.build_network(CONFIG).eval()
        checkpoint.load_into(network, checkpoint.load(file)[0], file)
        instances = np.concatenate([bag.instances for bag in bags])
        given = torch.from_numpy(instances).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            predicted = network(Bags(given, [len(bag.instances) for bag in bags]))
        assert ((predicted.bags[:, 0] > 0).numpy() == [bag.label for bag in bags]).all(), stage
        truth = np.concatenate([bag.instance_labels for bag in bags])
        assert ((predicted.instances[:, 0] > 0).numpy() == truth).mean() > 0.9, stage


def test_bags_of_one_label_are_refused(bags: list, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="all bags to learn from have one label"):
        distill_to_label.train(config(), bags[::2], tmp_path, ALONE, no_stage)
