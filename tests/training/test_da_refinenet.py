"""DA-RefineNet's training: what it is shown, that it learns and resumes, and that what it learned is what is served."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from painted_mosaic import make_small, paint_graded
from small_encoder import shrink_resnet18

from glassrt.engine.errors import DatasetError, TrainingError, UsageError
from glassrt.engine.flow.cut import cut_windows
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.tasks.segment import lay_windows
from glassrt.engine.watch import Clock
from glassrt.export.bundle import export_run, infer_together, load_run
from glassrt.training import augment, checkpoint
from glassrt.training.commands.options import CONFIGS
from glassrt.training.config import as_toml, load_config, toml_lines
from glassrt.training.datasets.labelled import LabelledSlide
from glassrt.training.methods import da_refinenet
from glassrt.training.methods.da_refinenet import DaRefineNetConfig, find_slides
from glassrt.training.metrics import IGNORE
from glassrt.training.windows import Ground, draw_example, lay_example, open_ground
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))
CONFIG = load_config(CONFIGS / "da_refinenet_compact.toml", DaRefineNetConfig)
SHORT = msgspec.structs.replace(
    CONFIG, mpp=1.25, window=32, context_window=64, context_factor=2.0, widths=(8, 8), batch=2, windows=2, steps=6,
    warmup_steps=2, save_every=2, colour="none", encoder_rate=0.1, context_rate=0.1,
)  # fmt: skip
# Encoders that soon become graphs, being made small.
PLAIN = {
    "encoder": "resnet18", "context_encoder": "resnet18", "weights": "random", "context_weights": "random"
}  # fmt: skip
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("painted")
    (folder / "glas").mkdir()
    return make_small(paint_graded(folder / "glas"), folder / "mosaics")


class Ramp:
    """A truth whose class rises to the right."""

    def cut(self, box: Box, grid: tuple[int, int]) -> np.ndarray:
        columns = (np.arange(box.left, box.right) * 4 // grid[0]).astype(np.uint8)
        return np.tile(columns, (box.bottom - box.top, 1))


def ramp(width: int, height: int) -> Ground:
    """A slide whose red rises to the right and whose green rises downwards."""
    x, y = np.meshgrid(np.arange(width) * 255 / width, np.arange(height) * 255 / height)
    pixels = np.stack([x, y, 0 * x], -1).astype(np.uint8)
    slide = LabelledSlide("ramp", Path("ramp"), Ramp())
    grid = GridReader(ArraySlide(pixels, 1.25), 1.25)
    places = tuple(np.array([[(number + 0.5) * width / 4, height / 2]]) for number in range(4))
    return Ground(slide, grid, places)


def config(**changes: Any) -> DaRefineNetConfig:
    return msgspec.structs.replace(SHORT, **changes)


@pytest.mark.parametrize("anchor", ["tile", "centre"])
@pytest.mark.parametrize("size", [(640, 512), (90, 70), (40, 30), (20, 200)])
def test_surroundings_lie_around_their_windows_however_all_are_turned(anchor: str, size: tuple[int, int]) -> None:
    """The mean colour of a window is the one that its context has at its place, on slides of any size."""
    ground = ramp(*size)
    windows = 3 if anchor == "tile" else 1
    look = config(context_anchor=anchor, windows=windows, fusion="add", align="footprint").look
    for number in range(24):
        example = draw_example([ground], look, number, np.random.default_rng(number))
        fine, context, place = (np.asarray(example.inputs[name]) for name in ("fine", "context", "place"))  # type: ignore[index]
        assert fine.shape == (windows, 32, 32, 3)
        context = context if anchor == "tile" else context[0]
        assert context.shape == (64, 64, 3)
        for window, first in zip(fine, place * 64, strict=True):
            assert (first > -0.51).all()
            assert (first + 16 < 64.51).all()
            left, top = np.rint(first).astype(int).clip(0, 48)
            under = context[top : top + 16, left : left + 16]
            if min(size) >= (128 if anchor == "tile" else 32):  # else the slide is mirrored within
                assert np.abs(under.mean((0, 1)) - window.mean((0, 1)))[:2].max() < 2.5 * 255 / min(size) + 1


def test_windows_of_a_single_input_lie_as_those_do_that_share_surroundings() -> None:
    """The control learns from windows as close together."""
    ground = ramp(640, 512)
    for context in ("none", "surroundings", "same"):
        look = config(window=64, windows=4, context=context).look
        assert (look.reach, look.windows) == (128, 4)
        starts = [lay_example([ground], look, number, np.random.default_rng(number))[1].windows for number in range(16)]
        assert all(np.ptp(each[:, 1:], axis=0).max() <= 64 for each in starts)
        assert np.mean([len(np.unique(each[:, 1:], axis=0)) for each in starts]) > 3


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirror", [True, False])
def test_a_place_turns_as_its_square_does(turns: int, mirror: bool) -> None:
    square = np.zeros((40, 40), np.uint8)
    square[4:14, 22:32] = 1
    x, y = augment.turn_place(np.array([22 / 40, 4 / 40], np.float32), 10 / 40, turns, mirror) * 40
    rows, columns = np.nonzero(augment.turn(square, turns, mirror))
    assert (round(float(x)), round(float(y))) == (columns.min(), rows.min())


@pytest.mark.parametrize("windows", [1, 2, 3, 4, 6, 8])
def test_each_class_leads_as_many_examples(windows: int) -> None:
    """However many windows are drawn together: what surrounds them is chosen by the first."""
    ground, look = ramp(2560, 512), config(windows=windows).look
    for number in range(8):
        example = draw_example([ground], look, number, np.random.default_rng(number))
        assert number % 4 in example.label[0]


def test_masks_are_turned_with_their_windows() -> None:
    ground, look = ramp(640, 512), config(windows=2).look
    for number in range(8):
        example = draw_example([ground], look, number, np.random.default_rng(number))
        red = np.asarray(example.inputs["fine"])[..., 0].astype(int)  # type: ignore[call-overload]
        assert np.abs(red * 4 / 255 - 0.5 - example.label).max() <= 1


def test_what_lies_beyond_a_small_slide_is_unknown() -> None:
    example = draw_example([ramp(20, 200)], config(windows=1).look, 0, np.random.default_rng(0))
    assert (example.label == IGNORE).mean() == pytest.approx(12 / 32)


@pytest.mark.parametrize(
    "changes",
    [
        {"fusion": "add", "align": "footprint"},
        {"fusion": "attention", "light": True, "context_anchor": "centre", "windows": 1},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_what_is_served_is_what_was_trained(
    painted: Path, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle gives what torch does on the very windows of a plan, at corners and borders too."""
    shrink_resnet18(monkeypatch)
    settings = config(steps=2, **PLAIN, **changes)
    run = tmp_path / "run"
    da_refinenet.train(settings, find_slides(settings, painted), run, ALONE)
    bundle = export_run(run, tmp_path / "made.glass", "made")
    assert bundle.manifest.kind == "dual"
    with open_slide(painted / "test_1.tif") as slide:
        grid = GridReader(slide, settings.mpp)
        plan = lay_windows(grid, bundle)
        windows = cut_windows(grid, plan, np.arange(len(plan.windows)), Clock())
    wanted = infer_together(*load_run(run, "made"), windows)["logits"]
    backend = open_backend(bundle, "ort", batch=len(plan.windows))
    found = backend.infer(windows)["logits"]
    backend.close()
    assert np.abs(found - wanted).max() < 1e-4 * max(1, np.abs(wanted).max())
    assert wanted.std() > 1e-3


def test_a_run_of_another_kind_is_told_where_it_is_compared(painted: Path, tmp_path: Path) -> None:
    settings = config(steps=1, context="none")
    da_refinenet.train(settings, find_slides(settings, painted), tmp_path, ALONE)
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(UsageError, match="the run takes image, the bundle context and fine"):
        infer_together(*load_run(tmp_path, "made"), {"fine": pixels, "context": pixels})


def test_a_run_resumes_exactly_after_a_kill(painted: Path, tmp_path: Path) -> None:
    settings = config(steps=8)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    da_refinenet.train(settings, find_slides(settings, painted), straight, ALONE)
    (tmp_path / "short.toml").write_text(as_toml(settings))
    line = [str(BIN / "glassrt"), "train", "da-refinenet", "--data", str(painted), "--out", str(broken)]
    line += ["--config", str(tmp_path / "short.toml")]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (broken / "state.safetensors").exists() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (broken / "model.safetensors").exists()
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    weights, again = (checkpoint.load(run / "model.safetensors")[0] for run in (straight, broken))
    assert all(torch.equal(value, again[name]) for name, value in weights.items())


def test_it_learns(painted: Path, tmp_path: Path) -> None:
    settings = config(steps=20, learning_rate=2e-3, context="none", average_decay=0.5, dropout=0.0)
    losses: list[float] = []
    da_refinenet.train(
        settings, find_slides(settings, painted), tmp_path, ALONE, lambda step, loss: losses.append(loss)
    )
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:3])


def test_encoders_learn_slower_and_a_context_that_does_not_learn_stays(painted: Path, tmp_path: Path) -> None:
    settings = config(steps=1, warmup_steps=0, optimiser="sgd", weight_decay=0.0, context_rate=0.0)
    start = da_refinenet.build_network(settings)
    da_refinenet.load_start(start, settings)
    before = {name: value.clone() for name, value in start.named_parameters()}
    da_refinenet.train(settings, find_slides(settings, painted), tmp_path, ALONE)
    after = checkpoint.load(tmp_path / "model.safetensors")[0]
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("context.encoder"))
    assert not torch.equal(after["fine.encoder._conv_stem.weight"], before["fine.encoder._conv_stem.weight"])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"fusion": "attention_pooled", "align": "footprint"}, "align footprint needs"),
        ({"context": "none", "align": "footprint", "fusion": "add"}, "align footprint needs"),
        ({"context_factor": 1.0}, "context_factor"),
        ({"window": 34}, "window"),
        ({"context_factor": 2.0, "context_window": 32, "window": 96}, "surroundings have to show all of a window"),
        ({"context_factor": 1.01, "context_window": 64, "window": 64}, "too small for windows"),
        ({"context_anchor": "centre"}, "windows > 1 share surroundings"),
        ({"context_factor": 65.0}, "context_factor"),
        ({"mpp": 0.01}, "mpp"),
        ({"context": "same", "window": 128, "context_window": 32}, "which windows lie within"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    values = {**msgspec.to_builtins(SHORT), **changes}
    path = tmp_path / "odd.toml"
    path.write_text("".join(toml_lines(values)))
    with pytest.raises(TrainingError, match=fault):
        load_config(path, DaRefineNetConfig)


def test_features_that_no_bundle_holds_are_refused_before_training() -> None:
    large = config(window=1024, context_window=1024, fusion="attention", widths=(512, 256))
    with pytest.raises(TrainingError, match="more than a bundle may hold"):
        da_refinenet.check(large, ALONE)


def test_a_run_belongs_to_its_slides(painted: Path, tmp_path: Path) -> None:
    settings, run = config(steps=1, context="none"), tmp_path / "run"
    slides = find_slides(settings, painted)
    da_refinenet.train(settings, slides, run, ALONE)
    da_refinenet.train(settings, slides, run, ALONE)
    with pytest.raises(TrainingError, match="written with other settings"):
        da_refinenet.train(settings, slides[:1], run, ALONE)


def test_a_slide_too_coarse_to_learn_from_is_refused(painted: Path) -> None:
    (slide, *_) = find_slides(SHORT, painted)
    with pytest.raises(DatasetError, match="too coarse"):
        open_ground(slide, 4, 0.1)


def test_configs_shipped_are_sound() -> None:
    paper = load_config(CONFIGS / "da_refinenet_paper.toml", DaRefineNetConfig)
    assert (paper.optimiser, paper.batch, paper.weight_decay) == ("sgd", 12, 1e-5)
    rates = [paper.learning_rate * share for share in paper.phases]  # type: ignore[union-attr]
    assert rates == pytest.approx([5e-3, 2.5e-3, 1e-3])
    assert [rate * paper.encoder_rate for rate in rates] == pytest.approx([5e-4, 2.5e-4, 1e-4])


def test_data_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="glassrt mosaic"):
        find_slides(SHORT, tmp_path)


def test_a_ground_knows_where_each_class_is(painted: Path) -> None:
    (slide, *_) = find_slides(SHORT, painted)
    ground = open_ground(slide, 4, 0.62005)
    classes = slide.truth.cut(Box(0, 0, 512, 512), (512, 512))
    for number, places in enumerate(ground.places):
        columns, rows = places.astype(int).T
        assert len(places)
        assert (classes[rows, columns] == number).all()
