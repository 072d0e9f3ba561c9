"""A head that learned from stored features as a bundle: `score` tells what the network does, from training on."""

import json
import shutil
from pathlib import Path

import h5py
import msgspec
import numpy as np
import pytest
import torch
from command_line import assert_one_line, run
from stored_slides import LENGTH, store_slide, store_slides

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.kinds.mil import Mil
from glassrt.engine.bundles.parts import Making
from glassrt.engine.errors import DatasetError, SlideError, UsageError
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.tasks.stored import score_features
from glassrt.export.bundle import export_run
from glassrt.export.triton import describe_model
from glassrt.training import checkpoint
from glassrt.training.bag_changes import Regularisation
from glassrt.training.bag_sets import fingerprint, load_bags
from glassrt.training.batches import Bags
from glassrt.training.config import Schedule, as_toml
from glassrt.training.evaluate import evaluate
from glassrt.training.methods import distill_to_label
from glassrt.training.methods.distill_to_label import DistillConfig, FoldConfig
from glassrt.training.slide_metrics import roc_auc
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))
SCHEDULE = Schedule(batch=2, steps=160, optimiser="adam", learning_rate=3e-3, weight_decay=1e-4, average_decay=0.9)
CONFIG = DistillConfig(
    dataset="features", classes=("benign", "malign"), folds=FoldConfig(fold=1, seed=3), attention=16, most_instances=40,
    teacher=SCHEDULE, student=SCHEDULE, regularisation=Regularisation(realisations=2),
)  # fmt: skip


def tell(config: DistillConfig, stage: Path, path: Path) -> np.ndarray:
    """The probabilities of all classes that torch has for a slide."""
    network = distill_to_label.build_network(config, LENGTH).eval()
    checkpoint.load_into(network, checkpoint.load(stage / "model.safetensors")[0], stage)
    with h5py.File(path) as file:
        features = torch.from_numpy((file["feats"] if "feats" in file else file["features"])[:]).float()
    with torch.no_grad():
        logits = network(Bags(features, [len(features)])).bags[0]
    logits = torch.cat([torch.zeros(1), logits]) if len(logits) == 1 else logits
    told: np.ndarray = logits.softmax(0).numpy()
    return told


@pytest.mark.slow
def test_from_a_table_of_labels_to_a_slide_s_probability(tmp_path: Path) -> None:
    """With the commands alone, on the fold that was left out."""
    store_slides(tmp_path / "data", ("benign", "malign"), 15)
    (tmp_path / "own.toml").write_text(as_toml(CONFIG))
    given = ("--data", tmp_path / "data", "--out", tmp_path / "run", "--config", tmp_path / "own.toml")
    done = run("train", "distill-to-label", *given)
    assert done.returncode == 0, done.stderr
    stage, bundle = tmp_path / "run" / "student", tmp_path / "student.glass"
    done = run("export", stage, "--out", bundle)
    assert done.returncode == 0, done.stderr
    tested = load_bags(CONFIG, tmp_path / "data").test
    paths = [tmp_path / "data" / f"{bag.name}.h5" for bag in tested]
    done = run("score", *paths, "--bundle", bundle, "--out", tmp_path / "out", "--precision", "auto")
    assert done.returncode == 0, done.stderr
    assert "verif" not in done.stdout  # nothing that it could be verified with
    malign = []
    for path in paths:
        found = json.loads((tmp_path / "out" / path.stem / "result.json").read_text())["bag"]["probabilities"]
        wanted = tell(CONFIG, stage, path)
        assert [*found] == ["benign", "malign"]
        assert [*found.values()] == pytest.approx(wanted, abs=1e-5)
        malign.append(found["malign"])
    area = roc_auc(malign, [bag.label for bag in tested])
    assert area > 0.9
    split = ("--data", tmp_path / "data", "--split", "1:3", "--json", tmp_path / "scores.json")
    done = run("evaluate", bundle, "--dataset", "features", *split)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "scores.json").read_text())
    assert report["images"] == len(tested)
    assert report["scores"]["bag AUROC"] == pytest.approx(100 * area, abs=0.01)
    assert_one_line(run("verify", bundle, "--tiles", tmp_path), 2, "takes features that were stored before")
    assert_one_line(
        run("export", stage, "--out", tmp_path / "low.glass", "--precision", "int8"), 2, "it is exported in fp32 alone"
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[DistillConfig, Path, Bundle]:
    """Settings of three classes, the folder that holds `data` and `run`, and the bundle."""
    folder = tmp_path_factory.mktemp("three")
    classes = ("benign", "lobular", "ductal")
    store_slides(folder / "data", classes, 12, "stamp", half=True)
    config = msgspec.structs.replace(CONFIG, classes=classes, student=msgspec.UNSET)
    parts = load_bags(config, folder / "data")
    distill_to_label.train(config, parts.train, folder / "run", ALONE, lambda name, steps: lambda step, value: None)
    return config, folder, export_run(folder / "run" / "teacher", folder / "three.glass", "three")


def test_three_classes_are_told_apart_in_half_floats(made: tuple[DistillConfig, Path, Bundle], tmp_path: Path) -> None:
    config, folder, bundle = made
    backend = open_backend(bundle, "ort", throughput=True)
    tested = load_bags(config, folder / "data").test
    wanted = np.stack([tell(config, folder / "run" / "teacher", folder / "data" / f"{bag.name}.h5") for bag in tested])
    for bag, probabilities in zip(tested, wanted, strict=True):
        path = folder / "data" / f"{bag.name}.h5"
        found = score_features(path, bundle, tmp_path / path.stem, backend).bag.probabilities
        assert [*found] == ["benign", "lobular", "ductal"]
        assert [*found.values()] == pytest.approx(probabilities, abs=1e-5)
    labels = np.array([bag.label for bag in tested])
    report = evaluate(bundle, backend, "features", folder / "data", "1:3")
    area = np.mean([roc_auc(wanted[:, each], labels == each) for each in range(3)])
    assert area > 0.9
    assert report["scores"]["mean bag AUROC"] == pytest.approx(100 * area, abs=0.01)
    assert report["scores"]["bag accuracy"] == pytest.approx(100 * (wanted.argmax(1) == labels).mean(), abs=0.01)
    for split in ("all", "0:3", "1:1"):
        with pytest.raises(
            DatasetError, match=r"learned from \d+ of the \d+ bags that would test it, as '.*': name the"
        ):
            evaluate(bundle, backend, "features", folder / "data", split)
    rows = (folder / "data" / "labels.csv").read_text().splitlines()
    unseen = [row for row in rows[1:] if Path(row.split(",")[0]).stem in {Path(bag.name).name for bag in tested}]
    (folder / "data" / "unseen").mkdir()
    for row in unseen:
        name = row.split(",")[0]
        path = next(path for path in (folder / "data").rglob(f"{Path(name).stem}.h5"))
        target = folder / "data" / "unseen" / path.relative_to(folder / "data")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (folder / "data" / "unseen" / "labels.csv").write_text("\n".join([rows[0], *unseen]))
    every = evaluate(bundle, backend, "features", folder / "data" / "unseen", "all")
    assert every["images"] == len(tested) == len(unseen)
    assert every["scores"] == report["scores"]
    store_slides(tmp_path / "other", ("benign", "malign"), 5)
    with pytest.raises(DatasetError, match="'malign' is none of the classes, benign, lobular, ductal"):
        evaluate(bundle, backend, "features", tmp_path / "other", "all")
    with pytest.raises(
        DatasetError, match=r"name the fold that the bundle left out, .* or all for slides that it never"
    ):
        evaluate(bundle, backend, "features", folder / "data", "5")
    with pytest.raises(DatasetError, match="tells nothing of bags of pictures"):
        evaluate(bundle, backend, "ucsb", folder / "data", "0")
    store_slides(tmp_path / "wide", config.class_names, 2, "stamp")
    for path in (tmp_path / "wide" / "h5").iterdir():
        store_slide(path, np.zeros((2, 9)), "stamp")
    with pytest.raises(DatasetError, match="has instances of 9 numbers, three takes those of 24 numbers"):
        evaluate(bundle, backend, "features", tmp_path / "wide", "all")
    backend.close()


def test_a_bundle_says_what_its_features_were_made_of(made: tuple[DistillConfig, Path, Bundle], tmp_path: Path) -> None:
    manifest = made[2].manifest
    assert isinstance(manifest, Mil)
    assert (manifest.takes, manifest.features, manifest.mpp, manifest.window) == ("features", LENGTH, 0.5, 224)
    assert "features by 'made'" in manifest.trained
    assert "without fold 1:3" in manifest.trained
    assert "features that were stored before -> scores, logits" in describe_model(made[2], manifest.graphs[0], "made")
    assert len({info.color for info in manifest.classes}) == 3
    assert manifest.made == Making("made", 224, 0.5)
    config, folder, bundle = made
    learned = {fingerprint(bag) for bag in load_bags(config, folder / "data").train}
    assert set(manifest.learned_from) == learned
    assert len(learned) == len(manifest.learned_from)
    backend = open_backend(bundle, "ort")
    store_slides(tmp_path / "other", config.class_names, 1, "stamp", seed=7)
    path = tmp_path / "other" / "h5" / "slide_0.h5"
    for name, value, said in (
        ("extractor", "another", "features by 'another', the bundle three learned from features by 'made'"),
        ("tile_size_um", 448.0, "tiles at 2 micrometres per pixel, the bundle three learned from tiles at 0.5 micro"),
        ("tile_size_px", 112, "tiles of 112 px, the bundle three learned from tiles of 224 px"),
    ):
        with h5py.File(path, "a") as file:
            before = file.attrs[name]
            file.attrs[name] = value
            if name == "tile_size_px":
                file.attrs["tile_size_um"] = 56.0
        with pytest.raises(SlideError, match=said):
            score_features(path, bundle, tmp_path / "out", backend)
        for each in (1, 2):
            shutil.copy(path, tmp_path / "other" / "h5" / f"slide_{each}.h5")
        with pytest.raises(SlideError, match=said):
            evaluate(bundle, backend, "features", tmp_path / "other", "all")
        with h5py.File(path, "a") as file:
            file.attrs[name] = before
    with h5py.File(path, "a") as file:
        for name in ("extractor", "tile_size_um", "tile_size_px"):
            del file.attrs[name]
    assert score_features(path, bundle, tmp_path / "out", backend).bag.probabilities
    backend.close()
    example = made[2].read_example()
    assert example is not None
    assert np.abs(example.outputs["logits"]).max() > 1e-3


def test_files_that_do_not_say_it_leave_usual_tiles(tmp_path: Path) -> None:
    store_slides(tmp_path, ("benign", "malign"), 2, "clam")
    schedule = msgspec.structs.replace(SCHEDULE, steps=1)
    config = msgspec.structs.replace(
        CONFIG, folds=msgspec.UNSET, mil=schedule, teacher=msgspec.UNSET, student=msgspec.UNSET, pooling="max"
    )
    bags = load_bags(config, tmp_path).train
    distill_to_label.train(config, bags, tmp_path / "run", ALONE, lambda name, steps: lambda step, value: None)
    bundle = export_run(tmp_path / "run" / "mil", tmp_path / "made.glass", "made")
    assert (bundle.manifest.mpp, bundle.manifest.window) == (0.5, 256)
    assert "their files do not say of which tiles" in bundle.manifest.trained
    assert "fold" not in bundle.manifest.trained
    backend = open_backend(bundle, "ort", batch=3)
    path = tmp_path / f"{bags[0].name}.h5"
    found = score_features(path, bundle, tmp_path / "out", backend).bag.probabilities
    backend.close()
    assert [*found.values()] == pytest.approx(tell(config, tmp_path / "run" / "mil", path), abs=1e-5)


@pytest.mark.parametrize("precisions", [("fp16",), ("fp32", "int8")])
def test_a_head_is_offered_in_float32_alone(made: tuple[DistillConfig, Path, Bundle], precisions: tuple) -> None:
    with pytest.raises(UsageError, match="exported in fp32 alone"):
        export_run(made[1] / "run" / "teacher", made[1] / "low.glass", "low", precisions, made[1])
    assert not (made[1] / "low.glass").exists()
