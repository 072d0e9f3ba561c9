"""OEEM from patch labels to a scored bundle, on a painted set; its parts against plain statements."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch
from small_encoder import shrink_resnet18

from glassrt.engine.errors import DatasetError, TrainingError
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.tasks.segment import segment_image
from glassrt.export.bundle import export_run
from glassrt.training import augment, checkpoint
from glassrt.training.commands.options import CONFIGS
from glassrt.training.config import load_config
from glassrt.training.methods import oeem, segment
from glassrt.training.methods.oeem import OeemConfig
from glassrt.training.run import Run
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))
COMPACT = load_config(CONFIGS / "oeem_compact.toml", OeemConfig)


@pytest.fixture(autouse=True, scope="module")
def narrow() -> Iterator[None]:
    """Glands of one colour need no more."""
    with pytest.MonkeyPatch.context() as patch:
        shrink_resnet18(patch)
        yield


def short(classify_steps: int, segment_steps: int) -> OeemConfig:
    """The compact configuration on small patches and crops, with an encoder that learns colours from nothing."""
    replace = msgspec.structs.replace
    quick = {"encoder": "resnet18", "weights": "random", "warmup_steps": 2, "average_decay": 0.8, "save_every": 2}
    patches = {"side": 48, "stride": 24, "crop": 48, "batch": 6, "steps": classify_steps}
    crops = {"crop": 96, "window": 96, "batch": 4, "steps": segment_steps}
    return replace(
        COMPACT,
        classify=replace(COMPACT.classify, **quick, **patches),
        cam=replace(COMPACT.cam, side=96, stride=64, scales=(1.0, 2.0)),
        segment=replace(COMPACT.segment, **quick, **crops),
    )


def silent(name: str, steps: int) -> segment.Progress:
    return lambda step, loss: None


@pytest.mark.parametrize("colour", augment.COLOURS)
def test_colours_vary_and_stay_tissue(colour: str) -> None:
    pixels = np.full((64, 64, 3), (200, 120, 180), np.uint8)
    varied = [augment.COLOURS[colour](pixels, np.random.default_rng(seed)) for seed in range(20)]
    assert all(each.dtype == np.uint8 and each.shape == pixels.shape for each in varied)
    assert (len({each.tobytes() for each in varied}) > 10) == (colour != "none")
    assert np.abs(np.mean(varied, axis=(0, 1, 2)) - (200, 120, 180)).max() < 30


def test_pixel_statistics_are_those_of_all_pixels(painted: Path) -> None:
    samples = segment.load_samples(painted, "train")
    pixels = np.concatenate([sample.pixels.reshape(-1, 3) for sample in samples]).astype(np.float64)
    mean, deviation = oeem.pixel_statistics(samples)
    assert np.allclose(mean, pixels.mean(0))
    assert np.allclose(deviation, pixels.std(0))


def test_patch_labels_become_a_bundle_that_finds_glands(painted: Path, tmp_path: Path) -> None:
    config = change(change(short(120, 60), "classify", save_every=100), "segment", save_every=100)
    oeem.train(config, painted, tmp_path, ALONE, silent)
    scores = msgspec.json.decode((tmp_path / "pseudo_masks" / "scores.json").read_bytes())["mIoU"]
    assert scores["pseudo-mask"] > 70
    for name in ("contact_sheet.png", "train_1.png", "train_1.jpg"):
        assert cv2.imread(str(tmp_path / "pseudo_masks" / name)) is not None
    assert set(np.unique(cv2.imread(str(tmp_path / "pseudo_masks" / "train_1.png"), 0))) == {0, 1}
    for folder in (tmp_path, tmp_path / "classify"):
        assert {"metrics.csv", "model.safetensors", "samples", "tensorboard"} <= {p.name for p in folder.iterdir()}
        assert list((folder / "samples").glob("step_*.jpg"))
        assert list((folder / "tensorboard").glob("events*"))
    bundle = export_run(tmp_path, tmp_path / "weak.glass", "weak")
    assert bundle.manifest.scales == (0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
    assert bundle.manifest.flips
    test = segment.load_samples(painted, "testA")[0]
    found = segment_image(test.pixels, 0.62005, bundle.replace((1.0,)), open_backend(bundle)).argmax(0)
    truth = test.mask == 1
    assert (found[truth] == 1).mean() > 0.8
    assert (found[~truth] == 1).mean() < 0.2


@pytest.fixture(scope="module")
def unbroken(painted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five steps in either stage."""
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    oeem.train(short(classify_steps=5, segment_steps=5), painted, run, ALONE, silent)
    return run


@pytest.mark.parametrize("stopped_in", ["classify", "pseudo-masks", "segment"])
def test_a_run_resumes_in_either_stage(painted: Path, tmp_path: Path, unbroken: Path, stopped_in: str) -> None:
    """Stopped after the fourth step of a stage, it goes on and ends where an unbroken run does."""
    config = short(classify_steps=5, segment_steps=5)

    def stop(name: str, steps: int) -> segment.Progress:
        def progress(step: int, loss: float) -> None:
            if name == stopped_in and step == 3:
                raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        oeem.train(config, painted, tmp_path / "broken", ALONE, stop)
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    oeem.train(config, painted, tmp_path / "broken", ALONE, silent)
    for model in ("classify/model.safetensors", "model.safetensors"):
        first, second = (checkpoint.load(run / model)[0] for run in (unbroken, tmp_path / "broken"))
        assert all(torch.allclose(first[name].float(), second[name].float(), atol=1e-5) for name in first)
    rows = [line.split(",")[0] for line in (tmp_path / "broken" / "metrics.csv").read_text().splitlines()]
    assert rows == ["step", "0", "1", "2", "3", "4"]


def test_settings_can_be_mended_until_something_is_learnt(painted: Path, tmp_path: Path) -> None:
    wrong = short(2, 2)
    wrong = msgspec.structs.replace(wrong, classify=msgspec.structs.replace(wrong.classify, weights="no.pth"))
    with pytest.raises(TrainingError, match=r"no\.pth does not exist"):
        oeem.train(wrong, painted, tmp_path, ALONE, silent)
    oeem.train(short(2, 2), painted, tmp_path, ALONE, silent)
    assert (tmp_path / "model.safetensors").exists()


def change(config: OeemConfig, part: str, **values: object) -> OeemConfig:
    return msgspec.structs.replace(config, **{part: msgspec.structs.replace(getattr(config, part), **values)})


def test_new_settings_of_the_maps_make_new_masks_and_refuse_the_old_network(painted: Path, tmp_path: Path) -> None:
    """Even when the settings file was deleted: the masks know what made them, the network what it learnt from."""
    first = short(2, 2)
    oeem.train(first, painted, tmp_path, ALONE, silent)
    (tmp_path / "config.toml").unlink()
    with pytest.raises(TrainingError, match="other settings or data"):
        oeem.train(change(first, "cam", scales=(1.5,)), painted, tmp_path, ALONE, silent)
    scores = msgspec.json.decode((tmp_path / "pseudo_masks" / "scores.json").read_bytes())
    assert scores["settings"]["cam"]["scales"] == [1.5]


@pytest.mark.parametrize(
    ("part", "values", "says"),
    [
        ("segment", {"encoder": "resnet38", "output_stride": 16}, "resnet38 runs at 8"),
        ("segment", {"encoder": "vgg16"}, "vgg16"),
        ("segment", {"weights": "gone.pth"}, r"gone\.pth does not exist"),
        ("segment", {"batch": 1}, "batch = 1"),
        ("classify", {"batch": 1}, "batch = 1"),
        ("classify", {"side": 151}, "train_1.bmp is smaller than a patch of 151"),
    ],
)
def test_settings_that_cannot_work_stop_it_before_stage_1(
    painted: Path, tmp_path: Path, part: str, values: dict[str, object], says: str
) -> None:
    error = DatasetError if "side" in values else TrainingError
    with pytest.raises(error, match=says):
        oeem.train(change(short(2, 2), part, **values), painted, tmp_path / "run", ALONE, silent)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('colour = "stain"', 'colour = "sepia"', r"'sepia' - at `\$\.classify\.colour`"),
        ("stride = 56", "stride = 113", r"stride 113 must lie in 1\.\.112.* - at `\$\.classify`"),
        ("stride = 192", "stride = 257", r"stride 257 must lie in 1\.\.256.* - at `\$\.cam`"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = (CONFIGS / "oeem_compact.toml").read_text()
    (tmp_path / "c.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(TrainingError, match=says):
        load_config(tmp_path / "c.toml", OeemConfig)


def test_a_folder_of_another_configuration_is_left_alone(painted: Path, tmp_path: Path) -> None:
    oeem.train(short(2, 2), painted, tmp_path, ALONE, silent)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(TrainingError, match="other settings or data"):
        oeem.train(short(2, 3), painted, tmp_path, ALONE, silent)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def damage(painted: Path, folder: Path, name: str, content: np.ndarray | None) -> Path:
    """A copy of the painted set in which one file is another, or missing."""
    shutil.copytree(painted, folder)
    (folder / name).unlink()
    if content is not None:
        cv2.imwrite(str(folder / name), content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train_2_anno.bmp", None, "train_2_anno.bmp is missing"),
        ("train_2_anno.bmp", np.zeros((10, 20), np.uint8), "180 x 150 pixels but its mask 20 x 10"),
        ("train_2_anno.bmp", np.zeros((150, 180, 3), np.uint8), "not a single-channel mask"),
    ],
)
def test_images_without_their_masks_are_named(
    painted: Path, tmp_path: Path, name: str, content: np.ndarray | None, says: str
) -> None:
    with pytest.raises(DatasetError, match=says):
        oeem.train(short(2, 2), damage(painted, tmp_path / "set", name, content), tmp_path / "run", ALONE, silent)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "train_1.png is missing"), (np.full((150, 180), 7, np.uint8), "holds the value 7")],
)
def test_masks_of_unknown_values_are_refused(
    painted: Path, tmp_path: Path, content: np.ndarray | None, says: str
) -> None:
    if content is not None:
        cv2.imwrite(str(tmp_path / "train_1.png"), content)
    with pytest.raises(DatasetError, match=says):
        segment.load_samples(painted, "train", tmp_path)


def test_an_empty_split_is_named(painted: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no testB_\*\.bmp"):
        segment.load_samples(painted, "testB")


def test_a_loss_that_is_no_number_names_step_and_files(painted: Path, tmp_path: Path) -> None:
    config = msgspec.structs.replace(short(2, 2).segment, learning_rate=1e30, steps=40, save_every=1)
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step \d+, on train_\d\.bmp"):
        segment.train(config, segment.load_samples(painted, "train"), tmp_path, ALONE)
    assert not (tmp_path / "model.safetensors").exists()
    saved = tmp_path / "state.safetensors"
    assert not saved.exists() or all(value.isfinite().all() for value in checkpoint.load(saved)[0].values())


def test_a_checkpoint_of_another_network_is_refused(painted: Path, tmp_path: Path) -> None:
    config = short(2, 2)
    run = Run(
        tmp_path / "classify", {"method": "oeem classifier", "config": msgspec.json.encode(config.classify).decode()}
    )
    checkpoint.save(run.model, {"x": torch.zeros(1)}, run.metadata)
    with pytest.raises(TrainingError, match="belongs to another network"):
        oeem.train(config, painted, tmp_path, ALONE, silent)
    assert run.model.exists()


def test_contours_are_refused_before_the_first_stage(tmp_path: Path) -> None:
    text = (CONFIGS / "oeem_compact.toml").read_text().replace("[segment]", "[segment]\ncontour_um = 6.0")
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(TrainingError, match=r"masks made of patch labels do not tell glands apart"):
        load_config(tmp_path / "config.toml", OeemConfig)
