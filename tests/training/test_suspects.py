"""Maps of suspicion: what they hold, which patches are drawn from them, and what becomes of them."""

import time
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import tifffile
import torch
from painted_mosaic import make_weak, paint_graded

from glassrt.engine.errors import DatasetError, TrainingError
from glassrt.training.datasets import weak_mosaic
from glassrt.training.mapping import LEAST, MapFolder, map_slide, open_ground
from glassrt.training.methods import beta_kl
from glassrt.training.methods.beta_kl import BetaKlConfig
from glassrt.training.suspects import FIRST, MAPS, WEIGHTS, Maps, Suspects
from glassrt.training.torch_backend import TorchBackend
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


class Green(torch.nn.Module):
    """Takes what is green for disease: logits at every fourth pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.05))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        green = torch.nn.functional.avg_pool2d(x[:, 1:2], 4) * self.scale
        return torch.cat([torch.zeros_like(green), green - 6], 1)


def test_a_map_is_what_the_network_makes_of_the_slide(grounds: list) -> None:
    ground = grounds[0]
    width, height = ground.map_size
    tissue = np.ones((height, width), np.bool_)
    tissue[: height // 2] = False
    signature = beta_kl.signature(config(encoder="efficientnet_lite0", window=512))
    suspicions = map_slide(ground, tissue, TorchBackend(Green(), signature, 3), 512, 4)
    assert (suspicions[: height // 2] == 0).all()
    assert (suspicions[height // 2 :] >= np.float16(LEAST)).all()
    green = ground.grid.read(0, 0, 512, 512)[..., 1].astype(np.float32)
    logits = 0.05 * green.reshape(height, 4, width, 4).mean((1, 3)) - 6
    # Logits are interpolated to the middle of a map's pixel, which lies between two of the window's.
    seen = cv2.sepFilter2D(logits, -1, np.array([1, 14, 1]) / 16, np.array([1, 14, 1]) / 16)
    inner = np.s_[height // 2 : -1, 1:-1]
    assert suspicions[inner] == pytest.approx(1 / (1 + np.exp(-seen[inner])), abs=2e-3)


def test_what_is_mapped_is_drawn_from_the_step_after_the_next(grounds: list, tmp_path: Path) -> None:
    maps = Maps(grounds, tmp_path, {}, 2.0, 2, 3, beside=False, world=ALONE)
    spot = np.zeros(grounds[0].map_size[::-1], np.float16)
    spot[3, 5] = 1
    drawn = []
    for step in range(6):
        place = maps.at(step).draw(step, 1, np.random.default_rng(step))
        drawn.append((int(place.x * spot.shape[1]), int(place.y * spot.shape[0])) == (5, 3))
        maps.renew(step + 1, lambda ground, tissue: spot, torch.nn.Identity())
    assert drawn == [False, False, False, True, True, True]


def test_maps_that_another_process_publishes_are_drawn_from(grounds: list, tmp_path: Path) -> None:
    first, newest = MapFolder(tmp_path / FIRST), MapFolder(tmp_path / "newest")
    for ground in grounds:
        first.begin(ground)
    suspects = Suspects(grounds, first, newest, 2.0, renewed=True)
    spot = np.zeros(grounds[0].map_size[::-1], np.float16)
    spot[3, 5] = 1
    for ground in grounds:
        newest.publish(ground, spot)
    suspects._looked -= 60
    place = suspects.draw(0, 1, np.random.default_rng(0))
    assert (int(place.x * spot.shape[1]), int(place.y * spot.shape[0])) == (5, 3)


def test_a_map_of_another_size_is_refused(grounds: list, tmp_path: Path) -> None:
    folder = MapFolder(tmp_path)
    folder.publish(grounds[0], np.zeros((3, 3), np.float16))
    with pytest.raises(TrainingError, match=r"train_1.npy is float16 \[3, 3\].*begin the run anew"):
        folder.load(grounds[0])
    folder.file(grounds[0]).write_bytes(b"no map")
    with pytest.raises(TrainingError, match="is no map"):
        folder.load(grounds[0])
    folder.file(grounds[0]).unlink()
    with pytest.raises(TrainingError, match="cannot be read"):
        folder.load(grounds[0])


def test_a_long_silence_of_the_mapping_process_is_told_once(
    grounds: list, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = Maps(grounds, tmp_path, {}, 2.0, 100, 3, beside=True, world=ALONE)
    maps.at(0)
    for minutes in (30, 61, 62):
        later = time.monotonic() + 60 * minutes
        monkeypatch.setattr(time, "monotonic", lambda later=later: later)
        maps.renew(1, lambda ground, tissue: pytest.fail("no map is made here"), torch.nn.Identity())
        monkeypatch.undo()
    assert [record.message.split(": ")[1] for record in caplog.records] == [
        "no map was renewed for 60 minutes; training goes on with those that there are"
    ]


def test_slides_of_one_name_are_refused(painted: Path) -> None:
    slides = weak_mosaic.find_slides(painted, "train")
    with pytest.raises(DatasetError, match="two slides are named train_1,"):
        beta_kl.open_grounds(SHORT, [*slides, slides[0]])


def test_a_slide_smaller_than_a_patch_is_refused(painted: Path) -> None:
    with pytest.raises(DatasetError, match=r"train_1\.tif is smaller than a patch"):
        beta_kl.open_grounds(config(patch=1024), weak_mosaic.find_slides(painted, "train"))


def test_a_slide_without_tissue_is_refused(tmp_path: Path, grounds: list) -> None:
    glass = np.random.default_rng(0).normal(240, 1, (600, 600, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "glass.tif", glass, tile=(256, 256), resolution=(20000, 20000), resolutionunit=3)
    slide = grounds[0].slide._replace(path=tmp_path / "glass.tif", name="glass")
    with pytest.raises(DatasetError, match=r"glass.tif: no tissue is found on it.*leave it out"):
        MapFolder(tmp_path / "maps").begin(open_ground(slide, 0.62, 2.48))


def test_only_maps_that_a_resumed_run_draws_from_are_kept(grounds: list, tmp_path: Path) -> None:
    maps = Maps(grounds, tmp_path, {}, 2.0, 2, 3, beside=False, world=ALONE)
    blank = np.full(grounds[0].map_size[::-1], 0.5, np.float16)
    for steps in range(1, 13):
        maps.renew(steps, lambda ground, tissue: blank, torch.nn.Identity())
    assert {folder.name for folder in (tmp_path / MAPS).glob("*/")} == {FIRST, "4", "5", "6"}
    maps.at(9).draw(0, 1, np.random.default_rng(0))
    with pytest.raises(TrainingError, match=r"maps/3, which step 7 draws from, is gone: begin the run anew"):
        maps.at(7)
    MapFolder(tmp_path / MAPS / "5").file(grounds[0]).unlink()
    with pytest.raises(TrainingError, match="cannot be read"):
        maps.at(11)


def test_weights_that_are_no_numbers_make_no_maps(grounds: list, tmp_path: Path) -> None:
    lost = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(lost.weight, torch.nan)
    for beside in (True, False):
        maps = Maps(grounds, tmp_path, {}, 2.0, 2, 3, beside=beside, world=ALONE)
        maps.renew(2, lambda ground, tissue: pytest.fail("a map was made"), lost)
    assert not (tmp_path / WEIGHTS).exists()


def test_a_doubtful_slide_is_drawn_from_as_a_whole(grounds: list, tmp_path: Path) -> None:
    dark = np.full((600, 600, 3), 120, np.uint8) + np.random.default_rng(0).integers(0, 9, (600, 600, 1), np.uint8)
    dark[..., 1] -= 60
    tifffile.imwrite(tmp_path / "dark.tif", dark, tile=(256, 256), resolution=(16129, 16129), resolutionunit=3)
    ground = open_ground(grounds[0].slide._replace(path=tmp_path / "dark.tif", name="dark"), 0.62, 2.48)
    folder = MapFolder(tmp_path / "maps")
    folder.begin(ground)
    assert (folder.load(ground) == 0.5).all()
