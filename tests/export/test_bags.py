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
from glassrt.engine.errors import DatasetError
from glassrt.engine.runtimes.open import open_backend
from glassrt.export.bundle import export_run, open_network
from glassrt.export.calibration import collect_windows
from glassrt.export.comparison import MadeOn, compare, loss
from glassrt.export.verify import verify
from glassrt.training import checkpoint
from glassrt.training.bag_folds import fold_bags
from glassrt.training.batches import Bags
from glassrt.training.config import Schedule
from glassrt.training.datasets import crchisto
from glassrt.training.datasets.bag import LabelledBag
from glassrt.training.evaluate import evaluate
from glassrt.training.evaluations import bags as evaluations
from glassrt.training.methods import distill_to_label
from glassrt.training.methods.distill_to_label import DistillConfig, FoldConfig, MnistConfig
from glassrt.training.slide_metrics import roc_auc
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


@pytest.mark.slow
def test_a_bundle_is_evaluated_as_the_network_is(data: Path, tmp_path: Path) -> None:
    """On the fold that it left out, through the engine: as torch tells its bags."""
    bags = crchisto.read_bags(data)
    fold = fold_bags(bags, 7)[2]
    config = msgspec.structs.replace(CONFIG, folds=FoldConfig(fold=2, seed=7), most_instances=8)
    distill_to_label.train(
        config, [bags[at] for at in fold.train], tmp_path, ALONE, lambda name, steps: lambda step, value: None
    )
    bundle = export_run(tmp_path / "mil", tmp_path / "colon.glass", "colon")
    assert "without fold 2:7" in bundle.manifest.trained
    backend = open_backend(bundle, "ort", batch=16)
    report = evaluate(bundle, backend, "crchisto", data, "2:7")
    with pytest.raises(DatasetError, match="name the fold that the bundle left out"):
        evaluate(bundle, backend, "crchisto", data, "test")
    with pytest.raises(DatasetError, match="the set needs benign, malignant"):
        evaluate(bundle, backend, "ucsb", data, "0")
    backend.close()
    network = distill_to_label.build_network(config).eval()
    checkpoint.load_into(network, checkpoint.load(tmp_path / "mil" / "model.safetensors")[0], tmp_path)
    told, single, labels = [], [], []
    with torch.inference_mode():
        for at in fold.test:
            pixels = torch.from_numpy(bags[at].instances).float().permute(0, 3, 1, 2)
            predicted = network(Bags(pixels, (len(pixels),)))
            told.append(float(predicted.bags[0, 0]))
            single.append(predicted.instances[:, 0].numpy())
            labels.append(bags[at].instance_labels)
    assert report["images"] == len(fold.test)
    scores = report["scores"]
    truth = np.array([bags[at].label for at in fold.test])
    assert scores["bag AUROC"] == pytest.approx(100 * roc_auc(told, truth), abs=0.2)
    assert scores["bag accuracy"] == pytest.approx(100 * ((np.array(told) >= 0) == truth).mean(), abs=0.01)
    pooled, known = np.concatenate(single), np.concatenate(labels)
    assert scores["AUROC"] == pytest.approx(100 * roc_auc(pooled, known), abs=0.05)
    assert scores["accuracy"] == pytest.approx(100 * ((pooled >= 0) == known).mean(), abs=0.05)
    assert 0 < scores["effective share"] <= 100
    assert "F1, threshold of validation" in scores


def test_digits_are_evaluated_at_a_size(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluations, "TESTED", 40)
    config = DistillConfig(dataset="mnist-bags", encoder="lenet5", mnist=MnistConfig(bags=2, size=5, balanced=True),
                           mil=SCHEDULE)  # fmt: skip
    bundle = export_run(train(tmp_path, config, 28), tmp_path / "digits.glass", "digits")
    backend = open_backend(bundle, "ort", batch=8)
    report = evaluate(bundle, backend, "mnist-bags", data, "5:3")
    with pytest.raises(DatasetError, match="name the mean size"):
        evaluate(bundle, backend, "mnist-bags", data, "test")
    backend.close()
    assert report["images"] == 40
    assert {"bag AUROC", "AUROC", "attention AUROC"} <= report["scores"].keys()
    assert "F1, threshold of validation" not in report["scores"]


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
    assert_one_line(done, 2, "is for tiles of slides as a whole")
