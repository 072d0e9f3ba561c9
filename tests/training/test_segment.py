"""Segmentation on masks: real images, short runs, kills, several processes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from glassrt.engine.errors import GlassError, TrainingError
from glassrt.training import checkpoint
from glassrt.training.augment import crop_at_random
from glassrt.training.cli import CONFIGS
from glassrt.training.config import as_toml, load_config
from glassrt.training.datasets import glas
from glassrt.training.losses import IGNORE
from glassrt.training.methods import segment
from glassrt.training.methods.segment import SegmentConfig, load_samples
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))
CONFIG = load_config(CONFIGS / "segment.toml", SegmentConfig)
SHORT = msgspec.structs.replace(CONFIG, crop=64, window=64, batch=2, steps=6, warmup_steps=2, save_every=2)
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("rotate", [True, False])
@pytest.mark.parametrize("resize", [(0.7, 1.4), (0.75, 3.0)])
def test_augmented_masks_stay_on_their_glands(painted: Path, rotate: bool, resize: tuple[float, float]) -> None:
    """A picture painted as its own mask must still equal the mask after augmentation."""
    mask = load_samples(painted, "train")[0].mask
    picture = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
    for seed in range(8):
        pixels, labels = crop_at_random(picture, mask, 128, resize, rotate, np.random.default_rng(seed))
        known = labels != IGNORE
        assert known.mean() > 0.3
        assert ((pixels[..., 1] > 127) == (labels == 1))[known].mean() > 0.97


def test_tiles_cover_every_pixel_and_end_at_the_border(painted: Path) -> None:
    sample = load_samples(painted, "train")[0]
    tiles = segment.cut_tiles([sample], 96, 72)
    assert [tile.mask.shape for tile in tiles] == [(96, 96)] * 6
    assert np.array_equal(tiles[-1].pixels, sample.pixels[-96:, -96:])


def command(data: Path, out: Path, config: Path) -> list[str]:
    return [str(BIN / "glassrt"), "train", "segment", "--data", str(data), "--out", str(out), "--config", str(config)]


def test_a_run_learns_and_resumes_exactly_after_a_kill(painted: Path, tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    segment.train(SHORT, load_samples(painted, "train"), straight, ALONE)
    (tmp_path / "short.toml").write_text(as_toml(SHORT))
    line = command(painted, broken, tmp_path / "short.toml")
    with subprocess.Popen(line, stdout=subprocess.DEVNULL) as process:
        while not (broken / "state.safetensors").exists():
            assert process.poll() is None, "the run ended before it was killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (broken / "model.safetensors").exists()
    (broken / "metrics.csv").unlink()  # a lost table is no reason to refuse the rest
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    first, _ = checkpoint.load(straight / "model.safetensors")
    second, _ = checkpoint.load(broken / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name].float(), second[name].float(), atol=1e-5) for name in first)
    assert not (broken / "state.safetensors").exists()
    assert (broken / "config.toml").read_text() == as_toml(SHORT)
    steps = [line.split(",")[0] for line in (straight / "metrics.csv").read_text().splitlines()]
    assert steps == ["step", *map(str, range(SHORT.steps))]


@pytest.mark.slow
def test_two_processes_train_the_network_that_one_does(painted: Path, tmp_path: Path) -> None:
    """Both draw the same batches. Batch norm sees half of one each, so the networks are alike but not equal."""
    config = msgspec.structs.replace(SHORT, batch=4, learning_rate=1e-4)
    segment.train(config, load_samples(painted, "train"), tmp_path / "alone", ALONE)
    (tmp_path / "c.toml").write_text(as_toml(config))
    torchrun = [str(BIN / "torchrun"), "--no-python", "--standalone", "--nproc-per-node", "2"]
    line = [*torchrun, *command(painted, tmp_path / "both", tmp_path / "c.toml")]
    subprocess.run(line, check=True, capture_output=True, env={"OMP_NUM_THREADS": "1", "PATH": str(BIN)})
    losses = []
    for run in ("alone", "both"):
        rows = [line.split(",") for line in (tmp_path / run / "metrics.csv").read_text().splitlines()[1:]]
        assert [int(row[0]) for row in rows] == list(range(config.steps))
        losses.append([float(row[1]) for row in rows])
    assert np.allclose(*losses, rtol=0.25)
    assert checkpoint.load(tmp_path / "both" / "model.safetensors")[1]["method"] == "segment"


def test_a_batch_that_cannot_be_shared_is_refused(painted: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="batch = 2 cannot be shared by 3"):
        segment.train(SHORT, load_samples(painted, "train"), tmp_path, World(0, 3, torch.device("cpu")))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "missing required field"),
        (as_toml(CONFIG) + "hue = 1", "unknown field `hue`"),
        (as_toml(CONFIG).replace("batch = 8", 'batch = "8"'), r"at `\$\.batch`"),
        (as_toml(CONFIG).replace("steps = 3000", "steps = 0", 1), r">= 1 - at `\$\.steps`"),
        (as_toml(CONFIG).replace("crop = 320", "crop = 100"), r"multiple of 32 - at `\$\.crop`"),
        (as_toml(CONFIG).replace('"glas"', '"glass"'), r"'glass' - at `\$\.dataset`"),
        ("batch = [", r"c\.toml: "),
    ],
)
def test_a_malformed_configuration_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(TrainingError, match=says):
        load_config(tmp_path / "c.toml", SegmentConfig)


def test_the_shipped_configurations_survive_writing(tmp_path: Path) -> None:
    from glassrt.training.methods.oeem import OeemConfig

    for name, kind in (("segment", SegmentConfig), ("oeem_compact", OeemConfig), ("oeem_paper", OeemConfig)):
        config = load_config(CONFIGS / f"{name}.toml", kind)
        (tmp_path / "c.toml").write_text(as_toml(config))
        assert load_config(tmp_path / "c.toml", kind) == config


def test_a_state_of_another_configuration_is_refused(painted: Path, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "state.safetensors", {"network/x": torch.zeros(1)}, {"step": "1", "config": "{}"})
    with pytest.raises(TrainingError, match="another configuration"):
        segment.train(SHORT, load_samples(painted, "train"), tmp_path, ALONE)


@pytest.mark.parametrize(("split", "says"), [("testC", "no split"), ("testB", r"no testB_\*\.bmp")])
def test_a_split_that_is_not_there_is_named(painted: Path, split: str, says: str) -> None:
    with pytest.raises(GlassError, match=says):
        glas.find_images(painted, split)


def test_glas_has_the_published_images(data: Path) -> None:
    assert len(glas.find_images(data, "train")) == 85
    assert [image.name for image in glas.find_images(data / "glas", "testA")] == [f"testA_{i}" for i in range(1, 61)]
