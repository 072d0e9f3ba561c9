"""Transfer: what is learned from, where networks start, and that a run learns, resumes and is served."""

import json
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch
from made_voc import make_voc

from glassrt.engine.errors import DatasetError, TrainingError
from glassrt.training import checkpoint
from glassrt.training.commands.options import CONFIGS
from glassrt.training.config import load_config
from glassrt.training.datasets import voc
from glassrt.training.datasets.labelled_patches import LabelledPatches
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
    transfer.check(settings, World(0, 1, torch.device("cpu")))
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
        transfer.check(config(encoder="separable", pretraining=BEFORE), ALONE)
    with pytest.raises(TrainingError, match="no package ships ImageNet weights of resnet18"):
        transfer.check(config(weights="imagenet"), ALONE)


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
    tall = LabelledPatches(("a", "b"), np.array([0, 1]), lambda number: np.zeros((20, 30, 3), np.uint8), 0.5)
    with pytest.raises(DatasetError, match="patch 1 is 30 x 20 px: cut squares"):
        transfer.read_patch(tall, 0, 32)


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
    settings = config(steps=40, batch=8, learning_rate=3e-4, examples=msgspec.UNSET)
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
    for folder in ("straight", "broken"):
        if folder == "broken":  # stopped after half of it
            half = msgspec.structs.replace(settings, pretraining=msgspec.UNSET)
            with pytest.raises(KeyboardInterrupt):
                transfer.train(half, found, natural, tmp_path / "other", ALONE, stop_at(3))
            with pytest.raises(KeyboardInterrupt):
                transfer.train(settings, found, natural, tmp_path / folder, ALONE, stop_at(3))
        transfer.train(settings, found, natural, tmp_path / folder, ALONE, no_stage)
    (first, told), (second, _) = (
        checkpoint.load(tmp_path / each / "model.safetensors") for each in ("straight", "broken")
    )
    assert all(torch.allclose(first[name].float(), second[name].float(), atol=1e-5) for name in first)
    assert json.loads(told["patch"]) == [20, 0.5]
    before = tmp_path / "straight" / transfer.PRETRAINING
    (score,) = json.loads((before / "scores.json").read_text())
    assert score == {"segmentation": "mIoU", "classification": "mAP"}[task]
    encoder = build_encoder("resnet18", 32)
    load_weights(encoder, "resnet18", str(before / "model.safetensors"))
    for name, value in encoder.state_dict().items():
        assert torch.equal(first[f"encoder.encoder.{name}"], value), name


def stop_at(step: int):
    """A stage that is broken off there."""

    def stage(name: str, steps: int):
        def told(done: int, loss: float) -> None:
            if done == step:
                raise KeyboardInterrupt

        return told

    return stage


def test_an_auto_encoder_is_a_start(tmp_path: Path) -> None:
    source = AutoEncoder(Design())
    checkpoint.save(tmp_path / "model.safetensors", source.state_dict(), {"method": "pretraining"})
    encoder = build_encoder("separable", 16)
    load_weights(encoder, "separable", str(tmp_path / "model.safetensors"))
    assert all(torch.equal(value, source.encoder.state_dict()[name]) for name, value in encoder.state_dict().items())
    with pytest.raises(TrainingError, match="belongs to another network"):
        load_weights(build_encoder("resnet18", 32), "resnet18", str(tmp_path / "model.safetensors"))
