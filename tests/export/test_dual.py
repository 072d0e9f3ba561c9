"""What a dual-input bundle is given to after its export: verification, Triton, plans, and the commands."""

import itertools
import json
import re
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from command_line import run
from made_tiffs import stained
from small_bundle import read_manifest, write_manifest
from small_dual import FACTOR, MPP, WINDOW, make_dual

from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.bundles.tensors import TensorSpec
from glassrt.engine.errors import BundleError, UsageError
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.plans import open_plan
from glassrt.export.calibration import Calibration, collect_calibration, collect_windows
from glassrt.export.comparison import edge_windows, run_each
from glassrt.export.ground import Ground, open_ground
from glassrt.export.lowering import Together, lower_all, refuse_lossy
from glassrt.export.precision import run_graph
from glassrt.export.samples import pick, take
from glassrt.export.triton import write_repository
from glassrt.export.verify import refuse_other, verify


@pytest.fixture(params=[False, True], ids=["vectors", "maps"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_dual(tmp_path / "small.glass", maps=request.param)


def test_both_networks_together_are_verified_in_every_runtime(folder: Path, demo_slide: Path) -> None:
    bundle = open_bundle(folder)
    windows = collect_windows(demo_slide.parent, bundle.manifest, wanted=8)
    assert windows.keys() == {spec.name for spec in bundle.manifest.whole.inputs}
    checks = verify(bundle, windows)
    assert {check.backend for check in checks if check.precision == "fp32"} == {"ort", "openvino"}
    assert all(check.windows == 8 + 3 and check.nan == 0 for check in checks)
    assert all(check.passed and check.largest < 1e-4 and check.timing for check in checks if check.precision == "fp32")
    wanted = {"logits": np.zeros((5, 2, 4, 4), np.float32)}
    refuse_other(bundle, wanted, 5)
    with pytest.raises(UsageError, match=r"gives logits \[2, 4, 4\] for a window"):
        refuse_other(bundle, {"logits": wanted["logits"][:, :1]}, 5)


def make_slide(folder: Path, width: int, height: int) -> Path:
    """Patches of tissue on glass."""
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (height // 10, width // 10), np.uint8)
    patches = cv2.resize(noise, (width, height), interpolation=cv2.INTER_NEAREST)[..., None] > 50
    cv2.imwrite(str(folder / "slide.png"), np.where(patches, stained(width, height), np.uint8(245))[..., ::-1])
    return folder / "slide.png"


def shown(ground: Ground) -> np.ndarray:
    """Left, top, right, bottom of all that either input shows of a ground's windows, at scale 1."""
    boxes = []
    for layer, factor in zip(ground.plan.layers, (1, FACTOR), strict=True):
        first = layer.windows[layer.of[ground.usable], 1:]
        boxes += [np.concatenate([first, first + WINDOW], axis=1) * factor]
    return np.concatenate(boxes)


@pytest.mark.parametrize("anchor", ["tile", "centre"])
def test_of_one_slide_no_part_sees_what_another_does(anchor: str, tmp_path: Path) -> None:
    """Surroundings are larger than windows, and many windows have the same."""
    manifest = open_bundle(make_dual(tmp_path / "small.glass", anchor)).manifest
    slide = make_slide(tmp_path / "slides", 1600, 1200)
    ground = open_ground(slide, manifest)
    assert ground is not None
    parts = ground.split((3, 1, 3))
    assert min(len(part.usable) for part in parts) > 50
    for one, other in itertools.permutations(parts, 2):
        box = one.around(one.usable)
        seen = shown(one).clip(0, (1600, 1200) * 2)
        assert (seen[:, :2] >= box[:2]).all()
        assert (seen[:, 2:] <= box[2:]).all()
        left, top, right, bottom = shown(other).T
        assert ((right <= box[0]) | (left >= box[2]) | (bottom <= box[1]) | (top >= box[3])).all()
    rest = ground.outside(parts[0].around(parts[0].usable))
    assert set(parts[1].usable) | set(parts[2].usable) <= set(rest.usable)
    made = collect_calibration(slide.parent, manifest)
    unseen = collect_windows(slide.parent, msgspec.structs.replace(manifest, calibrated=made.seen))
    for name in ("fine", "context"):
        given = [{each.tobytes() for each in samples[name]} for samples in (made.calibrated, made.measured, unseen)]
        assert sum(map(len, given)) == len(set.union(*given))


def test_a_slide_as_small_as_some_surroundings_cannot_be_split(folder: Path, tmp_path: Path) -> None:
    slide = make_slide(tmp_path / "slides", 250, 200)
    with pytest.raises(UsageError, match="windows of 32 pixels with tissue, too few to calibrate on some"):
        collect_calibration(slide.parent, open_bundle(folder).manifest)


def test_a_chain_that_is_off_fails(folder: Path, demo_slide: Path) -> None:
    """What is wanted is of the same windows: its surroundings and places count."""
    bundle = open_bundle(folder)
    windows = collect_windows(demo_slide.parent, bundle.manifest, wanted=8)
    chain = open_backend(bundle, "ort")

    def without(name: str) -> np.ndarray:
        given = run_each(chain, {**windows, name: np.zeros_like(windows[name])})["logits"]
        return np.abs(given - run_each(chain, windows)["logits"]).max()

    assert all(without(name) > 0.01 for name in windows)
    chain.close()


def test_edge_windows_lie_somewhere_in_their_surroundings() -> None:
    pixels = [TensorSpec(name, "uint8", (None, 8, 8, 3)) for name in ("fine", "context")]
    place, features = TensorSpec("place", "float32", (None, 2)), TensorSpec("pooled", "float32", (None, 4))
    made = edge_windows([*pixels, place])
    assert {name: (values.shape, values.dtype.name) for name, values in made.items()} == {
        "fine": ((3, 8, 8, 3), "uint8"),
        "context": ((3, 8, 8, 3), "uint8"),
        "place": ((3, 2), "float32"),
    }
    assert np.array_equal(made["place"], np.full((3, 2), 0.4, np.float32))
    for others in ([*pixels, features], [place]):
        assert all(len(values) == 0 for values in edge_windows(others).values())


def test_triton_is_given_each_network(folder: Path, tmp_path: Path) -> None:
    written = write_repository(open_bundle(folder), tmp_path / "models")
    assert [path.name for path in written] == ["small-context-fp32", "small-fine-fp32"]
    context, fine = ((path / "config.pbtxt").read_text() for path in written)
    assert f"windows at {MPP * FACTOR:g} micrometres" in context
    assert f"windows at {MPP:g} micrometres" in fine
    assert '{ name: "context" data_type: TYPE_UINT8 dims: [ 32, 32, 3 ] }' in context
    assert '{ name: "fine" data_type: TYPE_UINT8 dims: [ 32, 32, 3 ] }, { name: "' in fine
    assert 'output [ { name: "logits" data_type: TYPE_FP32 dims: [ 2, 4, 4 ] } ]' in fine


def test_each_network_has_a_plan(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    bundle = open_bundle(folder)
    plans = [open_plan(bundle, "tensorrt-rtx", "fp32", 2, tmp_path, role=role) for role in bundle.manifest.networks]
    assert [re.sub(r"-\w+\.plan", "", plan.path.name) for plan in plans] == [
        "small-context-fp32-batch2",
        "small-fine-fp32-batch2",
    ]
    done = run("plan", folder, "--batch", 2)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0].count(".plan") for line in done.stdout.splitlines()] == [1, 1]


def test_the_commands_serve_it(folder: Path, demo_slide: Path, tmp_path: Path) -> None:
    told = run("info", folder)
    assert told.returncode == 0, told.stderr
    for words in ("small (dual)", "32 px of 2 µm, shared by windows within", "context graph", "fine graph"):
        assert words in told.stdout
    done = run("score", demo_slide, "--bundle", folder, "--out", tmp_path / "out", "--scales", "0.5")
    assert done.returncode == 0, done.stderr
    windows = json.loads((tmp_path / "out" / demo_slide.stem / "result.json").read_text())["windows"]
    assert 0 < windows["contexts"] < windows["run"]
    checked = run("verify", folder, "--tiles", demo_slide.parent, "--json", tmp_path / "checks.json")
    assert checked.returncode == 0, checked.stderr
    assert {each["backend"] for each in json.loads((tmp_path / "checks.json").read_text())} == {"ort", "openvino"}


def test_a_labelled_set_measures_it(folder: Path, painted: Path) -> None:
    write_manifest(folder, read_manifest(folder) | {"mpp": 0.62005})
    scores = folder.parent / "scores.json"
    done = run("evaluate", folder, "--data", painted, "--split", "testA", "--json", scores)
    assert done.returncode == 0, done.stderr
    assert 0 < json.loads(scores.read_text())["scores"]["mIoU"] < 100


def test_lower_precisions_are_judged_by_what_both_networks_lose(folder: Path, demo_slide: Path) -> None:
    """A context in float16 that is off costs classes, though it alone tells none."""
    bundle = open_bundle(folder)
    kind = bundle.manifest
    exact = {role: bundle.read_graph(role=role) for role in kind.networks}
    windows = dict(collect_windows(demo_slide.parent, kind, wanted=12))
    for role, graph in exact.items():
        windows |= kind.networks[role].name_outputs(run_graph(graph, pick(windows, kind.networks[role].inputs)))
    tissue = Calibration(take(windows, slice(4, None)), take(windows, slice(4)), ())
    lower = [("fp16", "gpu"), ("int8", "cpu"), ("int8", "gpu")]
    lower = lower if kind.inputs[1].placed else lower[:1]  # the other, which nobody trained, loses too much in int8
    made = dict(lower_all(exact, ("fp16", "int8")[: len(lower)], tissue, kind))
    assert [(entry.role, entry.precision, entry.target) for entry in made] == [
        (role, *each) for role in ("context", "fine") for each in lower
    ]
    together = Together(exact, kind, tissue.measured)
    measure = together.measure("context", "fp16", "gpu")
    assert measure is not None
    features = kind.networks["context"].name_outputs(run_graph(exact["context"], measure.given))
    assert np.array_equal(measure.finish(features)["logits"], measure.wanted["logits"])
    spoilt = {name: values * 3 for name, values in features.items()}
    context, entry = (each for each in made if each.precision == "fp16")
    together.note(context, spoilt)
    with pytest.raises(BundleError, match="fp16 for gpu is not exported"):
        refuse_lossy(exact["fine"], entry, made[entry], {}, kind, together.measure("fine", "fp16", "gpu"))
