"""The network of the paper, from its configuration to what runs it."""

from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from glassrt.engine.backends import open_backend, run_windows
from glassrt.engine.bundle import Precision
from glassrt.engine.plans import open_plan
from glassrt.export import bundle as exporting
from glassrt.export import precision
from glassrt.export.bundle import export_run, infer_exactly
from glassrt.export.calibration import collect_calibration
from glassrt.training import checkpoint
from glassrt.training.cli import CONFIGS
from glassrt.training.config import load_config
from glassrt.training.methods.oeem import OeemConfig
from glassrt.training.methods.segment import build_network
from glassrt.training.networks import resnet38

FLAVOUR = "tensorrt-rtx"
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@pytest.mark.slow
def test_the_network_of_the_paper_exports_and_builds_in_every_precision(
    demo_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ResNet38-PSPNet with random weights, an eighth as wide as the paper's and on smaller windows."""
    monkeypatch.setattr(resnet38, "WIDTH", 8)
    config = load_config(CONFIGS / "oeem_paper.toml", OeemConfig).segment
    config = msgspec.structs.replace(config, weights="random", crop=160, window=160)
    torch.manual_seed(0)
    network = build_network(config)
    metadata = {"method": "oeem", "labels": "none", "config": msgspec.json.encode(config).decode()}
    checkpoint.save(tmp_path / "model.safetensors", network.state_dict(), metadata)
    monkeypatch.setattr(precision, "FLIPS_AIM", 1.0)  # random weights have no accuracy to lose
    monkeypatch.setattr(exporting, "refuse_lossy", lambda *_: None)  # nor to keep
    monkeypatch.setattr(exporting, "collect_calibration", partial(collect_calibration, wanted=8))
    bundle = export_run(tmp_path, tmp_path / "paper.glass", "paper", ("fp32", "fp16", "int8"), demo_slide.parent)
    windows, _ = bundle.read_example() or pytest.fail("no example")
    logits = run_windows(open_backend(bundle, "ort"), windows)
    assert np.abs(logits - infer_exactly(network, windows)).max() < 1e-4
    for name in PRECISIONS:
        assert [open_plan(bundle, FLAVOUR, name, 1, tmp_path / "kept").built for _ in range(2)] == [True, False]
