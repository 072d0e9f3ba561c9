"""Transfer: what is learned from, where networks start, and that a run learns, resumes and is served."""

import json
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch
from command_line import assert_one_line, run
from made_voc import make_voc

from glassrt.engine.bundles.kinds.classification import Classification
from glassrt.engine.errors import DatasetError, TrainingError
from glassrt.engine.runtimes.open import open_backend
from glassrt.export.bundle import export_run, infer_together, load_run
from glassrt.training import checkpoint
from glassrt.training.commands.options import CONFIGS
from glassrt.training.config import as_toml, load_config
from glassrt.training.datasets import kather, voc
from glassrt.training.evaluate import evaluate
from glassrt.training.methods import transfer
from glassrt.training.methods.transfer import Pretraining, TransferConfig
from glassrt.training.networks.encoders import build_encoder, load_weights
from glassrt.training.networks.unet import AutoEncoder, Design
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))
SCHEDULE = {"batch": 4, "steps": 4, "optimiser": "adam", "learning_rate": 1e-3, "weight_decay": 0.0, "save_every": 2}
BEFORE = Pretraining(task="segmentation", crop=32, resize=(0.5, 1.5), **SCHEDULE)
CONFIG = TransferConfig(
    dataset="folders", mpp=0.5, examples=6, window=32, shift=0.1, colour="none", encoder="resnet18",
    weights="random", **SCHEDULE,
)  # fmt: skip


def config(**changes) -> TransferConfig:
    return msgspec.structs.replace(CONFIG, **changes)


def no_stage(name: str, steps: int):
    return lambda step, loss: None


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of 20 pixels that is red, green or blue, a folder of each."""
    folder, random = tmp_path_factory.mktemp("patches"), np.random.default_rng(3)
    for at, name in enumerate(("blue", "green", "red")):
        (folder / "train" / name).mkdir(parents=True)
        for number in range(8 + at):
            pixels = random.integers(60, 120, (20, 20, 3)).astype(np.uint8)
            pixels[..., at] += 100
            cv2.imwrite(str(folder / "train" / name / f"{number}.png"), pixels)
    return folder


@pytest.mark.parametrize("name", ["compact", "kather", "pcam"])
def test_shipped_settings_make_both_networks(name: str) -> None:
    settings = load_config(CONFIGS / f"transfer_{name}.toml", TransferConfig)
    transfer.check(msgspec.structs.replace(settings, pretraining=msgspec.UNSET), Path(), ALONE)
    with torch.device("meta"):
        assert transfer.build_natural(settings)(torch.zeros(2, 3, 64, 64)).shape == (2, 21, 8, 8)
        assert transfer.build_network(settings, 8)(torch.zeros(2, 3, 64, 64)).shape == (2, 8)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"mpp": msgspec.UNSET}, "folders needs `mpp`"),
        ({"dataset": "nuclei"}, "nuclei has its own mpp"),
        ({"window": 40}, "multiple of 32"),
        ({"pretraining": {"resize": (2.0, 1.0)}}, "must rise"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict, fault: str) -> None:
    settings = msgspec.to_builtins(config(pretraining=BEFORE))
    for key, value in changes.items():
        if value is msgspec.UNSET:
            del settings[key]
        elif isinstance(value, dict):
            settings[key] |= value
        else:
            settings[key] = value
    if changes.get("dataset"):
        settings["mpp"] = 0.5
    with pytest.raises(msgspec.ValidationError, match=fault):
        msgspec.convert(settings, TransferConfig)


def test_encoders_that_cannot_run_are_refused_before_anything_is_made() -> None:
    with pytest.raises(TrainingError, match="separable runs at 16"):
        transfer.check(config(encoder="separable", pretraining=BEFORE), Path(), ALONE)
    with pytest.raises(TrainingError, match="no package ships ImageNet weights of resnet18"):
        transfer.check(config(weights="imagenet"), Path(), ALONE)
    with pytest.raises(DatasetError, match="no JPEGImages here"):
        transfer.check(config(pretraining=BEFORE), Path(), ALONE)


def test_a_subset_holds_equally_many_of_each_class_and_is_drawn_again(patches: Path) -> None:
    found = transfer.load_patches(CONFIG, patches)
    drawn = [transfer.draw_examples(found, config(subset=subset)) for subset in (1, 2, 1)]
    assert np.bincount(found.labels[drawn[0]]).tolist() == [6, 6, 6]
    assert len({*drawn[0].tolist()}) == 18
    assert np.array_equal(drawn[0], drawn[2])
    assert not np.array_equal(drawn[0], drawn[1])
    assert len(transfer.draw_examples(found, config(examples=msgspec.UNSET))) == 8 + 9 + 10
    with pytest.raises(DatasetError, match="train has 8 patches of blue, not 9"):
        transfer.load_patches(config(examples=9), patches)


def test_the_background_is_the_first_class(patches: Path) -> None:
    found = transfer.load_patches(config(background="red"), patches)
    assert found.classes == ("red", "blue", "green")
    assert np.bincount(found.labels).tolist() == [10, 8, 9]
    assert all(found.load(int(at))[..., 0].mean() > 150 for at in np.flatnonzero(found.labels == 0))
    with pytest.raises(DatasetError, match="no class 'grey', the background: it has blue, green, red"):
        transfer.load_patches(config(background="grey"), patches)


def test_a_patch_is_enlarged_and_moved(patches: Path) -> None:
    found = transfer.load_patches(CONFIG, patches)
    example = transfer.draw_patch(found, np.arange(27), CONFIG, 5, np.random.default_rng(0))
    assert example.inputs.shape == (32, 32, 3)
    assert example.source.endswith(".png")


@pytest.mark.parametrize(
    ("size", "said"), [((20, 30), "30 x 20 px, the first patch 20 x 20"), ((40, 40), "40 x 40 px")]
)
def test_patches_of_other_sizes_are_refused(tmp_path: Path, size: tuple[int, int], said: str) -> None:
    for name, shape in (("a/1", (20, 20)), ("b/1", (20, 20)), ("b/2", size)):
        (tmp_path / "train" / name[0]).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "train" / f"{name}.png"), np.full((*shape, 3), 90, np.uint8))
    found = transfer.load_patches(config(examples=1), tmp_path)
    with pytest.raises(DatasetError, match=f"b/2.png is {said}"):
        transfer.read_patch(found, 2, 32)


def test_what_no_bundle_could_be_made_of_is_refused(patches: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"windows of 32 px would have 0\.0125 micrometres per pixel"):
        transfer.load_patches(config(mpp=0.02), patches)
    for name in ("a", "b" * 70):
        (tmp_path / "train" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "train" / name / "1.png"), np.full((20, 20, 3), 90, np.uint8))
    with pytest.raises(DatasetError, match=r"64 printable characters.*rename its folder"):
        transfer.load_patches(config(examples=1), tmp_path)


def test_a_class_without_a_patch_is_refused(tmp_path: Path) -> None:
    for number, name in enumerate(kather.CLASSES, start=1):
        for slide in ("01", "09") if name != "COMPLEX" else ("09",):
            (tmp_path / f"{number:02}_{name}").mkdir(exist_ok=True)
            file = tmp_path / f"{number:02}_{name}" / f"HE-{slide}_{number}.tif"
            cv2.imwrite(str(file), np.full((20, 20, 3), 90, np.uint8))
    with pytest.raises(DatasetError, match="the split train has 0 patches of COMPLEX"):
        transfer.load_patches(config(dataset="kather", mpp=msgspec.UNSET, examples=msgspec.UNSET), tmp_path)


def test_a_crop_is_labelled_by_what_it_shows_itself(tmp_path: Path) -> None:
    images = voc.find_images(make_voc(tmp_path), "train")
    seen = [transfer.draw_crop(images, BEFORE, 1, np.random.default_rng(seed)) for seed in range(30)]
    things = msgspec.structs.replace(BEFORE, task="classification")
    told = [transfer.draw_crop(images, things, 1, np.random.default_rng(seed)) for seed in range(30)]
    shares = []
    for mask, present in zip(seen, told, strict=True):
        assert np.array_equal(mask.inputs, present.inputs)  # the same crops for both tasks
        (number,) = {*np.unique(mask.label).tolist()} - {0, 255} or {None}
        share = 0 if number is None else (mask.label == number).mean()
        assert present.label.sum() == (share >= 0.01)
        shares.append(share)
    assert min(shares) < 0.01 < max(shares)


def test_a_run_learns_its_classes(patches: Path, tmp_path: Path) -> None:
    settings = config(encoder="separable", steps=20, batch=8, examples=msgspec.UNSET)
    found = transfer.load_patches(settings, patches)
    transfer.train(settings, found, tmp_path, tmp_path / "run", ALONE, no_stage)
    network = transfer.build_network(settings, 3).eval()
    checkpoint.load_into(network, checkpoint.load(tmp_path / "run/model.safetensors")[0], tmp_path)
    windows = np.stack([transfer.read_patch(found, at, 32) for at in range(27)])
    with torch.no_grad():
        said = network(torch.from_numpy(windows).permute(0, 3, 1, 2).float()).argmax(1)
    assert (said.numpy() == found.labels).mean() > 0.9


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_the_classifier_starts_from_what_was_learned_before(patches: Path, tmp_path: Path, task: str) -> None:
    """An encoder that does not learn is found again in the classifier as the pre-training left it."""
    natural = make_voc(tmp_path / "voc")
    settings = config(encoder_rate=0.0, pretraining=msgspec.structs.replace(BEFORE, task=task))
    found = transfer.load_patches(settings, patches)
    for stage in ("VOC", "classify"):  # stopped in one, then in the other
        with pytest.raises(KeyboardInterrupt):
            transfer.train(settings, found, natural, tmp_path / "broken", ALONE, stop_in(stage))
    for folder in ("straight", "broken"):
        transfer.train(settings, found, natural, tmp_path / folder, ALONE, no_stage)
    (first, told), (second, _) = (
        checkpoint.load(tmp_path / each / "model.safetensors") for each in ("straight", "broken")
    )
    assert all(torch.allclose(first[name].float(), second[name].float(), atol=1e-5) for name in first)
    assert told["mpp"] == "0.3125"
    before = tmp_path / "straight" / transfer.PRETRAINING
    (score,) = json.loads((before / "scores.json").read_text())
    assert score == {"segmentation": "mIoU", "classification": "mAP"}[task]
    encoder = build_encoder("resnet18", 32)
    load_weights(encoder, "resnet18", str(before / "model.safetensors"))
    for name, value in encoder.state_dict().items():
        assert torch.equal(first[f"encoder.encoder.{name}"], value), name


def stop_in(broken: str):
    """Stages of which one is broken off after half of its steps."""

    def stage(name: str, steps: int):
        def told(done: int, loss: float) -> None:
            if done == 2 and name.startswith(broken):
                raise KeyboardInterrupt

        return told

    return stage


def test_another_start_is_another_run(patches: Path, tmp_path: Path) -> None:
    """A file of weights is known by what it holds, and what its classifier learned from is not forgotten."""
    file = tmp_path / "start.safetensors"
    settings = config(weights=str(file), steps=1)
    found = transfer.load_patches(settings, patches)._replace(sources=[f"slide {at % 3}" for at in range(27)])
    network = transfer.build_network(settings, 3)
    told = {"method": "transfer", "learned_from": json.dumps(["slide 7"])}
    checkpoint.save(file, network.state_dict(), told)
    transfer.train(settings, found, tmp_path, tmp_path / "run", ALONE, no_stage)
    manifest = load_run(tmp_path / "run", "made").manifest
    assert manifest.learned_from == ("slide 0", "slide 1", "slide 2", "slide 7")
    with torch.no_grad():
        network.encoder.encoder.conv1.weight.mul_(2)
    checkpoint.save(file, network.state_dict(), told)
    with pytest.raises(TrainingError, match="was written with other settings or data"):
        transfer.train(settings, found, tmp_path, tmp_path / "run", ALONE, no_stage)


@pytest.mark.slow
def test_the_command_trains_what_becomes_a_bundle(patches: Path, tmp_path: Path) -> None:
    """Its classes, resolution and origin are those of the patches; it says of them what torch says."""
    settings = config(background="red", encoder="separable")
    (tmp_path / "short.toml").write_text(as_toml(settings))
    out = tmp_path / "run"
    done = run("train", "transfer", "--data", patches, "--out", out, "--config", tmp_path / "short.toml")
    assert done.returncode == 0, done.stderr
    bundle = export_run(out, tmp_path / "made.glass", "made", ("fp32", "fp16"))
    manifest = bundle.manifest
    assert isinstance(manifest, Classification)
    assert [each.name for each in manifest.classes] == ["red", "blue", "green"]
    assert (manifest.mpp, manifest.window) == (20 * 0.5 / 32, 32)
    assert "6 patches of each class (subset 1) of folders train" in manifest.trained
    report = evaluate(bundle, open_backend(bundle, "ort", 4), "folders", widen(patches, tmp_path / "wide"), "train")
    found = transfer.load_patches(settings, patches)
    windows = np.stack([transfer.read_patch(found, at, 32) for at in range(27)])
    said = infer_together(*load_run(out, "made"), {"tile": windows})["logits"]
    assert report["scores"]["accuracy"] == pytest.approx(100 * (said.argmax(1) == found.labels).mean(), abs=1e-3)
    wrong = run("train", "transfer", "--data", patches, "--out", out, "--config", tmp_path / "short.toml",
                "--natural", tmp_path)  # fmt: skip
    assert_one_line(wrong, 2, "has no [pretraining], which is all that VOC is for")


def widen(patches: Path, folder: Path) -> Path:
    """The same patches as the window has them, whose resolution nobody says."""
    for path in patches.rglob("*.png"):
        place = folder / path.relative_to(patches)
        place.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place), cv2.resize(cv2.imread(str(path)), (32, 32)))
    return folder


def test_an_auto_encoder_is_a_start(tmp_path: Path) -> None:
    source = AutoEncoder(Design())
    checkpoint.save(tmp_path / "model.safetensors", source.state_dict(), {"method": "pretraining"})
    encoder = build_encoder("separable", 16)
    load_weights(encoder, "separable", str(tmp_path / "model.safetensors"))
    assert all(torch.equal(value, source.encoder.state_dict()[name]) for name, value in encoder.state_dict().items())
    with pytest.raises(TrainingError, match="belongs to another network"):
        load_weights(build_encoder("resnet18", 32), "resnet18", str(tmp_path / "model.safetensors"))
