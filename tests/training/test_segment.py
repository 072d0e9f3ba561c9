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
from glassrt.training.commands.options import CONFIGS
from glassrt.training.config import as_toml, load_config
from glassrt.training.datasets import glas
from glassrt.training.methods import segment
from glassrt.training.methods.segment import SegmentConfig, load_samples
from glassrt.training.metrics import IGNORE
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
    segment.train(SHORT, load_samples(painted, "train"), broken, ALONE)
    first, _ = checkpoint.load(straight / "model.safetensors")
    second, _ = checkpoint.load(broken / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name].float(), second[name].float(), atol=1e-5) for name in first)
    assert not (broken / "state.safetensors").exists()
    assert (broken / "config.toml").read_text() == as_toml(SHORT)
    steps = [line.split(",")[0] for line in (straight / "metrics.csv").read_text().splitlines()]
    assert steps == ["step", *map(str, range(SHORT.steps))]


TOY = """
import sys
from pathlib import Path
import numpy as np
import torch
from torch import nn
from glassrt.training.config import Schedule, Validation
from glassrt.training.loop import Example, Task, fit
from glassrt.training.run import Run
from glassrt.training.world import join_world

def draw(number, random):
    pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Example(pixels, pixels.mean((0, 1)).astype(np.float32), str(number))

def loss(network, pixels, labels, step):
    return (network(pixels / 255).mean((2, 3)) - labels / 255).square().mean()

schedule = Schedule(
    batch=4, steps=9, optimiser="sgd", learning_rate=0.1, weight_decay=0.0, sample_every=100,
    validation=Validation(every=2, patience=1),
)
picture = lambda network, pixels, labels: np.zeros((8, 8, 3), np.uint8)
with join_world() as world:
    scores = iter([1.0, 2.0, 1.0, 3.0, 4.0] if world.leads else [1.0, 0.0])  # the first process's count
    task = Task(lambda: nn.Conv2d(3, 3, 3), draw, loss, picture, lambda network: next(scores, 0.0))
    fit(task, schedule, Run(Path(sys.argv[1]), {}), world)
"""


def torchrun(*arguments: str) -> list[str]:
    return [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2", *arguments]


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """A network without batch norm ends with the same weights: each process learns from all gradients, and they stop
    together.
    """
    (tmp_path / "toy.py").write_text(TOY)
    environment = {"OMP_NUM_THREADS": "1", "PATH": str(BIN)}
    for name, start in (("alone", [sys.executable]), ("both", torchrun())):
        subprocess.run([*start, str(tmp_path / "toy.py"), str(tmp_path / name)], check=True, env=environment)
    alone, both = (checkpoint.load(tmp_path / name / "model.safetensors")[0] for name in ("alone", "both"))
    assert all(torch.allclose(alone[name], both[name], atol=1e-6) for name in alone)
    rows = [(tmp_path / name / "metrics.csv").read_text() for name in ("alone", "both")]
    assert rows[0] == rows[1]
    assert len(rows[0].splitlines()) == 1 + 6


@pytest.mark.slow
def test_the_command_runs_under_torchrun(painted: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(as_toml(msgspec.structs.replace(SHORT, batch=4)))
    line = torchrun("--no-python", *command(painted, tmp_path / "both", tmp_path / "c.toml"))
    environment = {"OMP_NUM_THREADS": "1", "PATH": str(BIN)}
    done = subprocess.run(line, check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.count("export it with") == 1
    rows = (tmp_path / "both" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", *map(str, range(SHORT.steps))]


def test_a_batch_that_cannot_be_shared_is_refused(painted: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="batch = 2 gives 3 processes no equal shares"):
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
        (as_toml(CONFIG).replace("[0.7, 1.4]", "[1.4, 0.7]"), r"resize \[1\.4, 0\.7\] must rise"),
        (as_toml(CONFIG).replace("tile = 0", "tile = 256"), r"stride 0 must lie in 1\.\.256"),
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
    with pytest.raises(TrainingError, match="other settings or data"):
        segment.train(SHORT, load_samples(painted, "train"), tmp_path, ALONE)


@pytest.mark.parametrize(("split", "says"), [("testC", "no split"), ("testB", r"no testB_\*\.bmp")])
def test_a_split_that_is_not_there_is_named(painted: Path, split: str, says: str) -> None:
    with pytest.raises(GlassError, match=says):
        glas.find_images(painted, split)


def test_glas_has_the_published_images(data: Path) -> None:
    assert len(glas.find_images(data, "train")) == 85
    assert [image.name for image in glas.find_images(data / "glas", "testA")] == [f"testA_{i}" for i in range(1, 61)]
