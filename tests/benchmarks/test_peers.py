"""Peers compute what GlassRT does, or are not timed."""

import io
import json
import re
from contextlib import closing, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import torch
import typer
from known import image_and_logits
from odd_contenders import build_broken, build_dying, build_wrong
from plain_network import PSPNET

from glassrt.benchmarks import peers, regions, tiatoolbox, torch_peers
from glassrt.benchmarks.commands.peers import peers_command
from glassrt.benchmarks.contender import Build, Worker
from glassrt.engine import open_bundle
from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import BundleError, GlassError
from glassrt.engine.runtimes.choose import choose
from glassrt.engine.runtimes.isa import cpu_isa, processor_name
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.tasks.segment import segment_image
from glassrt.export.bundle import export_made
from glassrt.export.kinds.made import UNMADE, Made
from glassrt.training.networks.segmenter import Design

BUNDLE = open_bundle(PSPNET)


class Compared(NamedTuple):
    """How the command ended, what it wrote and what it said."""

    exit_code: int
    report: dict[str, Any]
    out: str
    err: str


@pytest.fixture(scope="module")
def compared(demo_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """All contenders, and one that is wrong, on a part of the slide and in a narrow terminal."""
    figures, out, err = tmp_path_factory.mktemp("peers") / "peers.json", io.StringIO(), io.StringIO()
    exact, *others = peers.BUILDS
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(regions, "LONGEST", 700)
        patch.setattr(peers, "BUILDS", (exact, build_wrong, *others))
        patch.setenv("COLUMNS", "80")
        with pytest.raises(typer.Exit) as ended:
            peers_command(demo_slide, rounds=2, json=figures)
    return Compared(ended.value.exit_code, json.loads(figures.read_text()), out.getvalue(), err.getvalue())


def test_every_contender_gives_the_same_classes_and_is_timed(compared: Compared) -> None:
    report = compared.report
    names = [row["name"].split()[0] for row in report["rows"]]
    tiatoolbox_there = find_spec("tiatoolbox") is not None  # no extra brings it: it goes in without its requirements
    fastest = choose(BUNDLE)[1] != "fp32"  # where something faster was verified
    assert names == ["GlassRT"] * (1 + fastest) + ["MONAI"] * 2 + ["TIAToolbox"] * tiatoolbox_there + ["torch"] * 2
    assert report["pixels"] == [576, 576]
    for row in report["rows"]:
        assert len(row["runs"]) == 2
        ratios = [run / first for run, first in zip(row["runs"], report["rows"][0]["runs"], strict=True)]
        assert row["times_glassrt_fp32"] == pytest.approx(sum(ratios) / 2)
        assert row["other_class"] <= (0.01 if "int8" in row["name"] else 1e-4)


def test_a_contender_that_disagrees_is_left_out_and_the_others_are_timed(compared: Compared) -> None:
    exit_code, report, out, err = compared
    assert exit_code == 1
    assert re.search(r"left out: wrong gives .* another class than GlassRT fp32 .*: its speed means nothing", err)
    assert len(report["left_out"]) == 1
    assert report["machine"]["isa"] == cpu_isa()
    assert processor_name() in out
    assert max(map(len, out.splitlines())) <= 80
    for row in report["rows"]:
        assert f" {row['name']} " in out  # on one line


def test_the_plain_torch_statement_equals_the_engine_at_scales_and_flips() -> None:
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (24, 32, 3), np.uint8)
    pixels = np.kron(coarse, np.ones((16, 16, 1), np.uint8))
    bundle = BUNDLE.replace((1.0, 1.5), True)
    assert torch_peers.build_monai(bundle, pixels) is None
    assert tiatoolbox.build_tiatoolbox(bundle, pixels) is None
    plain = torch_peers.build_torch(bundle, pixels).run()
    ours = segment_image(pixels, bundle.manifest.mpp, bundle, open_backend(bundle))
    # Ties in the scaled grey values are rounded in another order here and there.
    assert np.abs(plain - ours).max() < 0.01
    assert np.abs(plain - ours).mean() < 1e-4


def test_the_torch_network_is_the_bundles() -> None:
    image, logits = image_and_logits(BUNDLE)
    network = torch_peers.rebuild_network(BUNDLE)
    with torch.inference_mode():
        found = network(torch.from_numpy(image).permute(0, 3, 1, 2).float()).numpy()
    assert np.abs(found - logits).max() < 1e-3


@pytest.mark.parametrize(
    ("given", "kept"), [((2388, 1787), (2368, 1600)), ((320, 576), (320, 576)), ((300, 577), (300, 576))]
)
def test_whole_windows_cover_what_is_compared(given: tuple[int, int], kept: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*given, 3), np.uint8)
    fitted = regions.fit_windows(pixels, BUNDLE)
    assert np.array_equal(fitted, pixels[: kept[0], : kept[1]])


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (build_broken, r"^build_broken: RuntimeError: no such operator$"),
        (build_dying, r"process ended before its answer"),
    ],
)
def test_a_contender_that_fails_is_not_timed(
    demo_slide: Path, monkeypatch: pytest.MonkeyPatch, build: Build, says: str
) -> None:
    monkeypatch.setattr(regions, "LONGEST", 400)
    monkeypatch.setattr(peers, "BUILDS", (peers.build_exact, build))
    with pytest.raises(GlassError, match=says):
        peers.measure_peers(demo_slide, BUNDLE, rounds=1)


def test_another_network_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_peers, "candidates", lambda *given: [torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))])
    with pytest.raises(BundleError, match="is neither PSPNet nor FPN on an EfficientNet-Lite"):
        torch_peers.rebuild_network(BUNDLE)


@pytest.fixture(scope="module")
def contoured(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A network of random weights with contours, which sees half the resolution."""
    torch.manual_seed(0)
    design = Design(network="fpn", encoder="efficientnet_lite0", output_stride=4, width=32)
    manifest = msgspec.structs.replace(
        BUNDLE.segmentation, output_stride=4, mpp=1.0, contour_of="gland", graphs=UNMADE, examples=(), name="half"
    )
    network = design.start(3).eval()
    with torch.inference_mode():  # so that both classes are told
        mean = network(255 * torch.rand(1, 3, 320, 320)).mean((0, 2, 3))
        network.classify[1].bias -= mean + torch.tensor([0.0, 0.7, 0.7])
    made = Made({"main": network}, manifest)
    return export_made(made, "random weights", tmp_path_factory.mktemp("contoured") / "half.glass")


def test_contours_are_part_of_their_class_everywhere(contoured: Bundle) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (576, 576, 3), np.uint8)
    classes = []
    for build in peers.BUILDS:
        with closing(Worker(build, contoured, pixels)) as worker:  # as in the benchmark: some change their process
            if worker.name is not None:
                classes.append(worker.classes())
    assert len(classes) > 3
    assert 0.02 < classes[0].mean() < 0.98
    assert all((each != classes[0]).mean() < 1e-3 for each in classes)


def test_others_may_run_another_network(demo_slide: Path, contoured: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "LONGEST", 600)
    monkeypatch.setattr(peers, "BUILDS", (peers.build_exact, torch_peers.build_torch))
    report = peers.measure_peers(demo_slide, contoured, rounds=1, against=BUNDLE)
    assert (report["bundle"], report["against"]) == ("half", BUNDLE.manifest.name)
    assert not report["left_out"]
    names = [row["name"] for row in report["rows"]]
    assert names[0].startswith("GlassRT fp32")
    assert names[1].startswith("torch")
    assert [name for name in names if name.endswith("with half")] == names[2:]
    assert len(names) == 3
