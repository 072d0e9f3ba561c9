"""Training from slide labels: which patches are drawn, that maps are renewed, and that a run resumes exactly."""

import csv
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from painted_mosaic import make_weak, paint_graded

from glassrt.engine.errors import TrainingError
from glassrt.training import checkpoint
from glassrt.training.commands.options import CONFIGS
from glassrt.training.config import as_toml, load_config
from glassrt.training.datasets import weak_mosaic
from glassrt.training.methods import beta_kl
from glassrt.training.methods.beta_kl import FREE, HOLDS, UNTOLD, BetaKlConfig
from glassrt.training.suspects import FIRST, IDENTITY, MAPS
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))
SHORT = BetaKlConfig(
    dataset="mosaic", mpp=0.62, patch=32, window=64, filters=4, beta=(0.0, 1.0), beta_rise_steps=2, map_mpp=2.48,
    renew_steps=2, colour="none", rotate=False, batch=4, steps=6, save_every=3, optimiser="adam", learning_rate=1e-3,
    weight_decay=0.0,
)  # fmt: skip


def config(**changes) -> BetaKlConfig:
    return msgspec.structs.replace(SHORT, **changes)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("painted")
    (folder / "glas").mkdir()
    return make_weak(paint_graded(folder / "glas"), folder / "mosaics")


@pytest.fixture(scope="module")
def grounds(painted: Path) -> list:
    return beta_kl.open_grounds(SHORT, weak_mosaic.find_slides(painted, "train"))


@pytest.mark.parametrize("name", ["beta_kl_paper.toml", "beta_kl_compact.toml"])
def test_shipped_settings_make_a_network(name: str) -> None:
    settings = load_config(CONFIGS / name, BetaKlConfig)
    network = beta_kl.build_network(settings).eval()
    side = settings.patch // beta_kl.output_stride(settings)
    with torch.no_grad():
        assert network(torch.zeros(1, 3, settings.patch, settings.patch)).shape == (1, 2, side, side)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"noise": 0.33}, "set beta or noise"),
        ({"beta": msgspec.UNSET}, "set beta or noise"),
        ({"beta": msgspec.UNSET, "noise": 1.5}, "`float` < 1"),
        ({"eta": 0}, "eta"),
        ({"eta": 101}, "eta"),
        ({"alpha": -1}, "alpha"),
        ({"batch": 3}, "odd"),
        ({"map_mpp": 0.5}, "nothing to gain"),
        ({"beta": (0, 1.5)}, "beta"),
        ({"encoder": "efficientnet_lite0", "pretrain_steps": 3}, "not from an auto-encoder"),
        ({"encoder_rate": 0}, "has to learn"),
        ({"beta": msgspec.UNSET, "noise": 0.01}, "noise 0.01 with false_alarm 0.05"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict, fault: str) -> None:
    values = {**msgspec.to_builtins(SHORT), **changes}
    values = {name: value for name, value in values.items() if value is not msgspec.UNSET}
    with pytest.raises(msgspec.ValidationError, match=fault):
        msgspec.convert(values, BetaKlConfig)


def test_noise_sets_the_power_of_the_malign_term() -> None:
    settings = config(beta=msgspec.UNSET, noise=0.33)
    assert settings.betas == (0.0, pytest.approx(0.6128, abs=1e-3))


def test_a_patch_shows_the_place_that_was_drawn_and_says_whether_tumour_is_there(grounds: list) -> None:
    malign = next(ground for ground in grounds if ground.slide.malign)
    size = malign.grid.width, malign.grid.height
    for left, top in np.random.default_rng(0).integers(0, size[0] - 32, (20, 2)).tolist():
        x, y = ((each + 16) / length for each, length in zip((left, top), size, strict=True))
        drawn = beta_kl.draw_patch(malign, x, y, SHORT, np.random.default_rng(1))
        assert np.array_equal(drawn.inputs, malign.grid.read(left, top, 32, 32))
        whole = malign.slide.truth.cut(beta_kl.Box(0, 0, *size), size)
        assert drawn.label.tolist() == [1, HOLDS if whole[top : top + 32, left : left + 32].any() else FREE]


def test_patches_at_the_border_lie_on_the_slide(grounds: list) -> None:
    grid = grounds[0].grid
    for x, y in ((0.0, 0.0), (1.0, 1.0), (0.0, 0.999)):
        drawn = beta_kl.draw_patch(grounds[0], x, y, SHORT, np.random.default_rng(1))
        left, top = round(x) * (grid.width - 32), round(y) * (grid.height - 32)
        assert np.array_equal(drawn.inputs, grid.read(left, top, 32, 32))


def test_turned_patches_reach_beyond_the_border_by_reflection(grounds: list) -> None:
    settings = config(rotate=True, elastic=2.0)
    for seed in range(4):
        drawn = beta_kl.draw_patch(grounds[0], 0.0, 1.0, settings, np.random.default_rng(seed))
        assert drawn.inputs.shape == (32, 32, 3)
        assert drawn.inputs.min() > 0


def test_what_is_not_known_of_a_slide_is_not_told(grounds: list) -> None:
    malign = next(ground for ground in grounds if ground.slide.malign)
    untold = malign._replace(slide=malign.slide._replace(truth=None))
    assert beta_kl.draw_patch(untold, 0.5, 0.5, SHORT, np.random.default_rng(1)).label.tolist() == [1, UNTOLD]


def test_purity_is_logged_and_not_minimised() -> None:
    network = torch.nn.Conv2d(3, 2, 1)
    labels = torch.tensor([[0, FREE], [1, HOLDS], [1, FREE], [1, HOLDS], [1, UNTOLD]])
    parts = beta_kl.divergence(SHORT)(network, torch.zeros(5, 3, 4, 4), labels, 0)
    assert parts["purity"].item() == pytest.approx(2 / 3)
    assert parts["divergence"].requires_grad
    assert not parts["purity"].requires_grad


def test_a_run_resumes_exactly_with_its_maps(painted: Path, tmp_path: Path) -> None:
    slides = weak_mosaic.find_slides(painted, "train")
    settings = config(pretrain_steps=2)

    class Killed(Exception):
        pass

    def stage_until(last: int):
        def stage(name: str, steps: int):
            def told(step: int, loss: float) -> None:
                if name == "beta-kl" and step == last:
                    raise Killed

            return told

        return stage

    beta_kl.train(settings, slides, tmp_path / "straight", ALONE)
    with pytest.raises(Killed):
        beta_kl.train(settings, slides, tmp_path / "broken", ALONE, stage_until(4))
    beta_kl.train(settings, slides, tmp_path / "broken", ALONE)
    weights, again = (checkpoint.load(tmp_path / run / "model.safetensors")[0] for run in ("straight", "broken"))
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
    rows = [list(csv.DictReader((tmp_path / run / "metrics.csv").open())) for run in ("straight", "broken")]
    assert [row["purity"] for row in rows[0]] == [row["purity"] for row in rows[1]]
    assert {folder.name for folder in (tmp_path / "straight" / MAPS).glob("*/")} == {FIRST, "1", "2", "3"}


def test_maps_and_weights_of_other_slides_are_refused(painted: Path, tmp_path: Path) -> None:
    """Also before anything else was saved that tells which run it is."""
    slides = weak_mosaic.find_slides(painted, "train")
    settings = config(save_every=100)

    def stop(name: str, steps: int):
        def told(step: int, loss: float) -> None:
            raise KeyboardInterrupt

        return told

    with pytest.raises(KeyboardInterrupt):
        beta_kl.train(settings, slides, tmp_path, ALONE, stop)
    assert not list(tmp_path.glob("*.safetensors"))
    others = [each._replace(path=slides[0].path) for each in slides]
    with pytest.raises(TrainingError, match=r"run\.json was written with other settings or data"):
        beta_kl.train(settings, others, tmp_path, ALONE)
    (tmp_path / MAPS / IDENTITY).write_text("[")
    with pytest.raises(TrainingError, match=r"run\.json was written with other settings or data"):
        beta_kl.train(settings, slides, tmp_path, ALONE)


def test_a_frozen_encoder_is_the_auto_encoders(painted: Path, tmp_path: Path) -> None:
    settings = config(encoder_rate=0.0, pretrain_steps=2, steps=2, warmup_steps=0)
    beta_kl.train(settings, weak_mosaic.find_slides(painted, "train"), tmp_path, ALONE)
    rebuilt, served = (checkpoint.load(tmp_path / name / "model.safetensors")[0] for name in (beta_kl.PRETRAINING, "."))
    torch.manual_seed(settings.seed)
    random = dict(beta_kl.AutoEncoder(settings.design).named_parameters())
    learned = [name for name in random if name.startswith("encoder.") and not torch.equal(random[name], rebuilt[name])]
    assert learned
    assert all(torch.equal(rebuilt[name], served[name]) for name in learned)


def test_other_labels_are_another_run(painted: Path, tmp_path: Path) -> None:
    slides = weak_mosaic.find_slides(painted, "train")
    settings = config(steps=1, warmup_steps=0)
    beta_kl.train(settings, slides, tmp_path, ALONE)
    with pytest.raises(TrainingError, match="other settings or data"):
        beta_kl.train(settings, [each._replace(malign=not each.malign) for each in slides], tmp_path, ALONE)


def test_training_goes_on_whatever_becomes_of_the_mapping_process(painted: Path, tmp_path: Path) -> None:
    (tmp_path / "beside.toml").write_text(as_toml(config(mapping="beside", steps=8)))
    run = tmp_path / "run"
    line = [sys.executable, "-c", "from glassrt.engine.commands.main import main; main()", "train", "beta-kl"]
    line += ["--data", str(painted), "--out", str(run), "--config", str(tmp_path / "beside.toml"), "--no-maps"]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    assert (run / "model.safetensors").exists()
    assert (run / "weights.safetensors").exists()
    assert not (run / MAPS / "newest").exists()
