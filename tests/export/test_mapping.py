"""The process that maps slides beside a run: either may be killed and started again."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from painted_mosaic import make_weak, paint_graded

from glassrt.engine.errors import TrainingError
from glassrt.engine.files import write_json
from glassrt.export.bundle import export_run, open_network
from glassrt.export.mapping import Mapper, follow_run
from glassrt.training import checkpoint
from glassrt.training.config import as_toml
from glassrt.training.datasets import weak_mosaic
from glassrt.training.mapping import MapFolder
from glassrt.training.methods import beta_kl
from glassrt.training.methods.beta_kl import BetaKlConfig
from glassrt.training.suspects import IDENTITY, MAPS, NEWEST, WEIGHTS
from glassrt.training.world import World

BESIDE = BetaKlConfig(
    dataset="mosaic", mpp=0.62, patch=32, window=128, filters=4, beta=(0.0, 1.0), map_mpp=2.48, renew_steps=2,
    mapping="beside", colour="none", rotate=False, batch=4, steps=6, optimiser="adam", learning_rate=1e-3,
    weight_decay=0.0,
)  # fmt: skip
# Networks of few layers soon become graphs, here and in every process.
SHALLOW = """
from functools import partial
from glassrt.training.methods import beta_kl
beta_kl.Design = partial(beta_kl.Design, poolings=1)
"""
COMMAND = [sys.executable, "-c", f"{SHALLOW}\nfrom glassrt.engine.commands.main import main; main()"]
LONG_S = 120.0


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beta_kl, "Design", partial(beta_kl.Design, poolings=1))


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("painted")
    (folder / "glas").mkdir()
    return make_weak(paint_graded(folder / "glas"), folder / "mosaics")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that is about to begin: its settings."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text(as_toml(BESIDE))
    return folder


@pytest.fixture
def begun(run: Path, painted: Path) -> Path:
    """The same when its maps have begun, with its first weights."""
    grounds = beta_kl.open_grounds(BESIDE, weak_mosaic.find_slides(painted, "train"))
    (run / MAPS).mkdir()
    write_json(run / MAPS / IDENTITY, beta_kl.identify(BESIDE, grounds))
    save_weights(run, painted, 2)
    return run


def save_weights(folder: Path, painted: Path, steps: int, **other: str) -> None:
    torch.manual_seed(steps)
    network = beta_kl.build_network(BESIDE)
    told = beta_kl.identify(BESIDE, beta_kl.open_grounds(BESIDE, weak_mosaic.find_slides(painted, "train")))
    checkpoint.save(folder / WEIGHTS, network.state_dict(), {"steps": str(steps), **told, **other})


def await_that(holds: Callable[[], bool]) -> None:
    """Until it holds; fails after long."""
    end = time.monotonic() + LONG_S
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.1)


@pytest.fixture
def start(painted: Path, begun: Path) -> Iterator[Callable[[], subprocess.Popen]]:
    """Starts the mapping process; none outlives the test."""
    started: list[subprocess.Popen] = []

    def begin() -> subprocess.Popen:
        line = [*COMMAND, "map-suspects", str(begun), "--data", str(painted)]
        started.append(subprocess.Popen(line, stdout=subprocess.DEVNULL))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def test_a_killed_mapping_process_leaves_whole_maps_and_goes_on(begun: Path, painted: Path, start) -> None:
    newest = MapFolder(begun / MAPS / NEWEST)
    grounds = beta_kl.open_grounds(BESIDE, weak_mosaic.find_slides(painted, "train"))
    process = start()
    await_that(lambda: newest.file(grounds[0]).exists())
    process.send_signal(signal.SIGKILL)
    process.wait()
    made = [ground for ground in grounds if newest.file(ground).exists()]
    before = {ground.slide.name: np.array(newest.load(ground)) for ground in made}
    save_weights(begun, painted, 4)
    process = start()
    await_that(lambda: all(newest.file(ground).exists() for ground in grounds))
    await_that(lambda: all((newest.load(each) != before[each.slide.name]).any() for each in made))
    (begun / "model.safetensors").touch()
    assert process.wait(LONG_S) == 0


def test_maps_are_those_of_the_network_in_torch(begun: Path, painted: Path) -> None:
    run, grounds = begun, beta_kl.open_grounds(BESIDE, weak_mosaic.find_slides(painted, "train"))
    mapper = Mapper(BESIDE, grounds, run)
    assert mapper.load_newest()
    mapped = [mapper.map_next() for _ in grounds]
    assert {each.slide.name for each in mapped} == {each.slide.name for each in grounds}
    assert mapper.map_next() is None  # none twice with the same weights
    network = beta_kl.build_network(BESIDE)
    checkpoint.load_into(network, checkpoint.load(run / WEIGHTS)[0], run / WEIGHTS)
    for ground in grounds:
        tissue = MapFolder(run / MAPS / "first").load(ground) > 0
        expected = beta_kl.map_with(BESIDE, network, ground, tissue)
        assert MapFolder(run / MAPS / NEWEST).load(ground) == pytest.approx(expected, abs=2e-3)
    save_weights(run, painted, 4)
    assert mapper.load_newest()
    assert mapper.steps == 4
    assert mapper.map_next() is not None
    save_weights(run, painted, 6, slides="others")
    with pytest.raises(TrainingError, match=r"weights\.safetensors was written with other settings or data"):
        mapper.load_newest()
    shutil.rmtree(run / MAPS)  # as who begins anew does
    with pytest.raises(TrainingError, match=r"run\.json was written with other settings or data"):
        mapper.map_next()
    assert not (run / MAPS).exists()


def test_it_ends_with_the_process_that_began_it(run: Path, painted: Path) -> None:
    assert not follow_run(run, painted, parent=os.getpid() + 1)


def test_a_run_that_makes_its_own_maps_is_not_followed(run: Path, painted: Path) -> None:
    (run / "config.toml").write_text(as_toml(msgspec.structs.replace(BESIDE, mapping="within")))
    with pytest.raises(TrainingError, match='mapping = "within": this run makes its maps itself'):
        follow_run(run, painted)
    (run / "config.toml").write_text(as_toml(msgspec.structs.replace(BESIDE, alpha=0.0)))
    with pytest.raises(TrainingError, match="alpha = 0: this run draws from no map"):
        follow_run(run, painted)
    with pytest.raises(TrainingError, match="holds no run: start `glassrt train beta-kl"):
        follow_run(run / "none", painted)


def find_child(parent: int) -> str:
    """The number of a process that maps slides for another; empty where there is none."""
    line = ["pgrep", "-P", str(parent), "-f", "map-suspects"]
    return subprocess.run(line, capture_output=True, text=True).stdout.strip()


@pytest.mark.slow
def test_a_run_outlives_its_mapping_process(painted: Path, tmp_path: Path) -> None:
    settings = msgspec.structs.replace(BESIDE, steps=200, renew_steps=20)
    (tmp_path / "beside.toml").write_text(as_toml(settings))
    run = tmp_path / "run"
    line = [*COMMAND, "train", "beta-kl", "--data", str(painted), "--out", str(run)]
    process = subprocess.Popen([*line, "--config", str(tmp_path / "beside.toml")], stderr=subprocess.PIPE, text=True)
    await_that(lambda: find_child(process.pid) != "")
    child = int(find_child(process.pid))
    os.kill(child, signal.SIGKILL)
    _, told = process.communicate(timeout=LONG_S)
    assert process.returncode == 0
    assert (run / "model.safetensors").exists()
    assert "the mapping process ended" in told
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_run_is_served_with_scores_of_slides_and_heat(painted: Path, tmp_path: Path) -> None:
    settings = msgspec.structs.replace(BESIDE, mapping="within", steps=2, warmup_steps=0)
    slides = weak_mosaic.find_slides(painted, "train")
    beta_kl.train(settings, slides, tmp_path / "run", World(0, 1, torch.device("cpu")))
    bundle = export_run(tmp_path / "run", tmp_path / "weak.glass", "weak")
    manifest = bundle.manifest
    assert (manifest.slide_scores.of, manifest.overlay) == ("malign", "heat")
    assert [each.name for each in manifest.classes] == ["benign", "malign"]
    window = {"image": np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), np.uint8)}
    (logits,) = open_network(tmp_path / "run")(window).values()
    assert logits.shape == (1, 2, 128, 128)
