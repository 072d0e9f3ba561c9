"""A stage of a Distill-to-Label run as a bundle: what is served is what was trained, in every precision."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from command_line import assert_one_line, run
from small_mil import make_bundle

from glassrt.engine import open_bundle
from glassrt.engine.bundles.checks import Check
from glassrt.engine.bundles.kinds.mil import Mil
from glassrt.engine.errors import TrainingError
from glassrt.export.bundle import export_run, load_run, open_network
from glassrt.export.calibration import collect_windows
from glassrt.export.comparison import MadeOn, compare, loss
from glassrt.export.verify import verify
from glassrt.training.config import Schedule
from glassrt.training.datasets.bag import LabelledBag
from glassrt.training.methods import distill_to_label
from glassrt.training.methods.distill_to_label import DistillConfig, FoldConfig, MnistConfig
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))
SCHEDULE = Schedule(batch=1, steps=3, optimiser="adam", learning_rate=1e-3, weight_decay=0.0, average_decay=0.0, seed=1)
CONFIG = DistillConfig(dataset="crchisto", encoder="conv2", folds=FoldConfig(), mil=SCHEDULE)


def train(folder: Path, config: DistillConfig = CONFIG, side: int = 27) -> Path:
    random = np.random.default_rng(0)
    bags = [
        LabelledBag(
            f"bag {label}", str(label), label, random.integers(0, 256, (5, side, side, 3), np.uint8), None, None
        )
        for label in (0, 1)
    ]
    distill_to_label.train(config, bags, folder, ALONE, lambda name, steps: lambda step, value: None)
    return folder / "mil"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("run"))


@pytest.mark.slow
def test_every_precision_is_exported_and_verified(stage: Path, demo_slide: Path, tmp_path: Path) -> None:
    bundle = export_run(stage, tmp_path / "colon.glass", "colon", ("fp32", "fp16", "int8"), demo_slide.parent)
    made = bundle.manifest
    assert isinstance(made, Mil)
    assert (made.window, made.mpp, made.features, made.pooling) == (27, 0.55, 512, "attention")
    assert [info.name for info in made.classes] == ["other", "epithelial"]
    assert {graph.precision for graph in made.graphs} == {"fp32", "fp16", "int8"}
    checks = verify(bundle, collect_windows(demo_slide.parent, made), open_network(stage))
    assert {(check.backend, check.precision) for check in checks} >= {("ort", "fp32"), ("ort", "int8")}
    for check in checks:
        assert check.passed, check
        assert check.cosine is not None
        assert check.cosine >= (0.99 if check.precision == "int8" else 0.999)


def test_what_no_slide_shows_is_not_exported(tmp_path: Path) -> None:
    config = DistillConfig(dataset="mnist-bags", encoder="lenet5", mnist=MnistConfig(bags=2, size=5, balanced=True),
                           mil=SCHEDULE)  # fmt: skip
    with pytest.raises(TrainingError, match="learned mnist-bags, which no slide shows"):
        load_run(train(tmp_path, config, 28), "digits")


MADE_ON = MadeOn("", "ort", "", "CPU", "", "int8")


def outputs(**changes: np.ndarray) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    told = {
        "features": random.normal(0, 1, (8, 48)),
        "scores": np.arange(8.0),
        "logits": np.linspace(-4, 4, 8)[:, None],
    }
    return told | changes


def test_features_that_turn_or_a_bag_that_changes_class_fail(tmp_path: Path) -> None:
    kind = open_bundle(make_bundle(tmp_path / "small.glass")).manifest
    exact = outputs()
    same = compare(exact, exact, 8, MADE_ON, None, kind)
    assert (same.cosine, same.bag_changes, same.passed) == (1.0, False, True)
    turned = exact["features"].copy()
    turned[5] = np.roll(turned[5], 1)
    cosine = float(turned[5] @ exact["features"][5] / np.linalg.norm(turned[5]) / np.linalg.norm(exact["features"][5]))
    found = compare(outputs(features=turned), exact, 8, MADE_ON, None, kind)
    assert found.cosine == kind.lowest_cosine(outputs(features=turned), exact) == pytest.approx(cosine)
    assert not found.passed
    assert loss(outputs(features=turned), exact, kind) == pytest.approx(1 - cosine)
    assert loss(outputs(logits=-exact["logits"]), exact, kind) == 1.0
    # All tiles keep their class, but other ones ask for attention.
    other = compare(outputs(scores=-exact["scores"]), exact, 8, MADE_ON, None, kind)
    assert (other.flips, other.bag_changes, other.passed) == (0.0, True, False)


def test_the_output_that_is_furthest_off_counts(tmp_path: Path) -> None:
    """Large features do not hide that small logits are wrong."""
    kind = open_bundle(make_bundle(tmp_path / "small.glass")).manifest
    exact = outputs(features=1000 * outputs()["features"])
    found = compare(outputs(features=exact["features"], logits=exact["logits"] * 1.6), exact, 8, MADE_ON, None, kind)
    assert found.largest == pytest.approx(2.4)
    assert found.reach == 4.0
    assert not found.passed


def test_a_vector_of_zeros_is_as_far_off_as_one_can_be(tmp_path: Path) -> None:
    kind = open_bundle(make_bundle(tmp_path / "small.glass")).manifest
    exact, zeros = outputs(), np.zeros((8, 48))
    assert kind.lowest_cosine(outputs(features=zeros), exact) == 0
    assert kind.lowest_cosine(outputs(features=zeros), outputs(features=zeros)) == 1
    assert kind.lowest_cosine(outputs(features=zeros * np.nan), exact) == -1


@pytest.mark.parametrize(
    ("cosine", "precision", "passed"),
    [
        (0.991, "int8", True),
        (0.989, "int8", False),
        (0.9991, "bf16", True),
        (0.9989, "fp16", False),
        (0.9999, "fp32", False),
    ],
)
def test_a_check_is_judged_by_its_cosine_whatever_it_says(cosine: float, precision: str, passed: bool) -> None:
    check = Check("", "ort", "", "CPU", "", precision, True, 8, 0.0, 0.0, 0, 0.0, cosine=cosine)  # type: ignore[arg-type]
    assert check.is_within is passed
    assert not msgspec.structs.replace(check, bag_changes=True).is_within


def test_commands_that_make_maps_refuse_bags(demo_slide: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "small.glass")
    done = run("bench", "slide", demo_slide, bundle)
    assert_one_line(done, 2, "gives features, scores of tiles, too")
