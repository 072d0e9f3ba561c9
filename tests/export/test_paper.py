"""The network of the paper, from its configuration to what runs it."""

from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from known import image_and_logits, run_windows

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.parts import Precision
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.plans import open_plan
from glassrt.engine.tasks.segment import segment_image
from glassrt.export import bundle as exporting
from glassrt.export import lowering, precision, rounding
from glassrt.export.bundle import export_run, open_network
from glassrt.export.calibration import collect_calibration
from glassrt.training.commands.options import CONFIGS
from glassrt.training.config import load_config
from glassrt.training.methods import oeem, segment
from glassrt.training.methods.oeem import OeemConfig
from glassrt.training.networks import resnet38
from glassrt.training.world import World

FLAVOUR = "tensorrt-rtx"
WIDTH = 16  # with 8, torch's backward pass writes beyond its memory on some processors
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def run(painted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step of ResNet38 and PSPNet at batch 2, with the paper's settings but for the crop, a quarter as wide."""
    changes = {"weights": "random", "crop": 64, "window": 64, "tile": 64, "tile_stride": 48, "batch": 2, "steps": 1}
    config = msgspec.structs.replace(load_config(CONFIGS / "oeem_paper.toml", OeemConfig).segment, **changes)
    folder = tmp_path_factory.mktemp("paper")
    alone = World(0, 1, torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet38, "WIDTH", WIDTH)
        segment.train(config, segment.load_samples(painted, "train"), folder, alone, method=oeem.METHOD)
    return folder


@pytest.fixture(scope="module")
def bundle(run: Path, demo_slide: Path) -> Bundle:
    """That run in every precision."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet38, "WIDTH", WIDTH)
        patch.setattr(rounding, "LONGEST", rounding.LONGEST * WIDTH // 64)  # the layers that are too long are the same
        patch.setattr(precision, "FLIPS_AIM", 1.0)  # after one step there is no accuracy to lose
        patch.setattr(lowering, "refuse_lossy", lambda *_: None)  # nor to keep
        patch.setattr(exporting, "collect_calibration", partial(collect_calibration, wanted=8))
        return export_run(run, run / "paper.glass", "paper", PRECISIONS, demo_slide.parent)


@pytest.mark.slow
def test_it_trains_exports_and_scores(painted: Path, bundle: Bundle) -> None:
    pixels = segment.load_samples(painted, "testA")[0].pixels[:64, :80]
    probability = segment_image(pixels, 0.62005, bundle.replace((1.0,), False), open_backend(bundle))
    assert probability.shape == (2, 64, 80)
    assert np.allclose(probability.sum(0), 1, atol=1e-5)


@pytest.mark.slow
def test_it_computes_what_torch_does(run: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resnet38, "WIDTH", WIDTH)
    windows, _ = image_and_logits(bundle)
    logits = run_windows(open_backend(bundle, "ort"), windows)
    assert np.abs(logits - open_network(run)({"image": windows})["logits"]).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_builds_in_every_precision(bundle: Bundle, tmp_path: Path, precision: Precision) -> None:
    assert [open_plan(bundle, FLAVOUR, precision, 1, tmp_path).built for _ in range(2)] == [True, False]
