"""A bundle's own verification."""

import hashlib
import json
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import onnx
import pytest
import small_bundle
from onnx import numpy_helper
from plain_network import PSPNET

from glassrt.engine.bundles.bundle import Bundle, open_bundle
from glassrt.engine.bundles.checks import Timing, read_checks, record_checks
from glassrt.engine.bundles.tensors import TensorSpec
from glassrt.engine.errors import BundleError, GlassError, UsageError
from glassrt.engine.runtimes.choose import choose
from glassrt.engine.runtimes.isa import count_cores, processor_name
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.slides.fingerprint import fingerprint
from glassrt.export import verify as verification
from glassrt.export.calibration import collect_windows
from glassrt.export.comparison import edge_windows
from glassrt.export.samples import Samples, count, take
from glassrt.export.verify import verify
from glassrt.training.evaluate import evaluate

GLASSRT = Path(sys.executable).parent / "glassrt"


@pytest.fixture(scope="module")
def windows(demo_slide: Path) -> Samples:
    return collect_windows(demo_slide.parent, open_bundle(PSPNET).manifest, wanted=12)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


class Verified(NamedTuple):
    """A bundle that the command verified, what each of its files held before, and what the command wrote and said."""

    bundle: Bundle
    before: dict[str, str]
    figures: Path
    done: subprocess.CompletedProcess[str]


# Neither torch nor onnx can be imported, as where they are not installed.
BLOCK = "import sys; [sys.modules.update({name: None}) for name in ('torch', 'onnx', 'onnxscript', 'safetensors')]"
ONCE = "import glassrt.export.verify as verify; verify.ROUNDS = 1"  # eight bits win by more than two rounds change
FEWER = "import glassrt.export.calibration as calibration; calibration.WANTED = 12"  # windows
MAIN = "from glassrt.engine.commands.main import main; main()"
COMMAND = (sys.executable, "-c", "; ".join((BLOCK, ONCE, FEWER, MAIN)), "verify")


@pytest.fixture(scope="module")
def verified(made: Bundle, demo_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Verified:
    """The shipped bundle, verified with what the extra `cpu` installs."""
    folder = tmp_path_factory.mktemp("verified")
    bundle, figures = open_bundle(shutil.copytree(made.path, folder / "made.glass")), folder / "checks.json"
    before = hashes(bundle.path)
    command = [*COMMAND, bundle.path, "--tiles", demo_slide.parent, "--json", figures]
    return Verified(bundle, before, figures, subprocess.run(command, capture_output=True, text=True))


@pytest.mark.slow
def test_every_runtime_and_precision_is_checked_and_recorded(
    verified: Verified, demo_slide: Path, tmp_path: Path
) -> None:
    bundle, _, figures, done = verified
    assert done.returncode == 0, done.stdout + done.stderr
    checks = {(each["backend"], each["precision"]): each for each in json.loads(figures.read_text())}
    assert {("ort", "fp32"), ("openvino", "fp32"), ("ort", "int8"), ("openvino", "int8")} <= checks.keys()
    assert all(each["passed"] and each["nan"] == 0 for each in checks.values())
    assert checks["ort", "fp32"]["largest"] == 0  # it is what the others are held against
    assert 0 < checks["openvino", "fp32"]["largest"] < 1e-3
    assert checks["openvino", "int8"]["largest"] > 1e-3
    recorded = {(each.backend, each.precision) for each in read_checks(bundle)}
    assert recorded == checks.keys()
    assert open_bundle(bundle.path).sha256 == bundle.sha256  # which results cite
    fastest = min(checks, key=lambda each: checks[each]["timing"]["ms"])
    out = tmp_path / "results"
    subprocess.run([GLASSRT, "score", demo_slide, "--bundle", bundle.path, "--out", out], check=True)
    result = json.loads((out / demo_slide.stem / "result.json").read_text())
    assert (result["backend"]["name"], result["bundle"]["precision"]) == fastest
    assert fastest[1] in ("int8", "bf16")


@pytest.mark.slow
def test_a_bundle_is_verified_with_what_the_extra_cpu_installs_and_only_its_checks_change(
    verified: Verified, demo_slide: Path
) -> None:
    bundle, before, _, done = verified
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: skin, which the network did not learn, flips more
    assert "Traceback" not in done.stderr
    after = hashes(bundle.path)
    assert after.pop("checks.json")
    assert after == before
    assert "does not say what it was calibrated on" in done.stderr
    command = [*COMMAND, bundle.path, "--tiles", demo_slide.parent, "--against", "run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("glassrt: this needs torch, which is not installed: pip install")


def test_a_graph_that_is_off_fails_and_is_not_chosen(small: Path, demo_slide: Path) -> None:
    """Nor would it be if it were the fastest."""
    model = onnx.load_from_string((small / "int8_cpu.onnx").read_bytes())
    weight = next(each for each in model.graph.initializer if each.name == "tell.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[::-1].copy(), weight.name))
    small_bundle.pin(small, "int8_cpu.onnx", model.SerializeToString())
    done = run_verify(small, demo_slide.parent)
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    spoilt = open_bundle(small)
    exact, off = ([each for each in read_checks(spoilt) if each.precision == name] for name in ("fp32", "int8"))
    assert {each.passed for each in exact} == {True}
    assert {each.passed for each in off} == {False}
    assert choose(spoilt, "auto", "auto")[1] != "int8"
    instant = Timing(processor_name(), count_cores(), 1, 1e-6)
    record_checks(spoilt, [msgspec.structs.replace(each, timing=instant) for each in off])
    assert choose(spoilt, "auto", "auto")[1] != "int8"


def test_logits_of_another_graph_are_told_from_the_exact(small: Path) -> None:
    """`--against`: what the float32 graph computes is compared with what it should."""

    def other(asked: Samples) -> Samples:
        assert count(asked) == 5
        return {"logits": np.zeros((5, 2, 4, 4), np.float32)}

    checks = verify(open_bundle(small), small_windows(), other)
    assert checks
    assert not any(each.passed for each in checks)


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 4, 4)])
def test_logits_of_another_shape_are_refused_in_a_line(small: Path, shape: tuple[int, ...]) -> None:
    """As of a run with another output stride or other classes."""
    with pytest.raises(UsageError, match=r"small\.glass gives logits \[2, 4, 4\] for a window, what it is compared wi"):
        verify(
            open_bundle(small), small_windows(), lambda asked: {"logits": np.zeros((count(asked), *shape), np.float32)}
        )


def test_what_is_labelled_for_another_kind_is_refused(
    small: Path, painted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "LABELLED", "another")
    with pytest.raises(UsageError, match=r"GlaS measures .* which .*small\.glass is not for: leave --data out"):
        verify(open_bundle(small), small_windows(), data=painted)


def test_a_run_that_gives_none_of_a_bundles_outputs_is_refused_in_a_line(small: Path) -> None:
    with pytest.raises(UsageError, match=r"small\.glass gives logits \[2, 4, 4\] for a window, what it is compared wi"):
        verify(open_bundle(small), small_windows(), lambda asked: {"features": np.zeros((count(asked), 9))})


def small_windows() -> Samples:
    side = small_bundle.WINDOW
    return {"image": np.random.default_rng(2).integers(0, 256, (2, side, side, 3), np.uint8)}


def test_images_that_calibrated_do_not_tell_the_change_of_miou(small: Path, painted: Path) -> None:
    def calibrate(*numbers: int) -> Bundle:
        marks = [fingerprint(painted / f"testA_{number}.bmp") for number in numbers]
        calibrated = [{"fingerprint": mark, "box": [0, 0, 9, 9]} for mark in marks]
        manifest = {**small_bundle.read_manifest(small), "mpp": 0.62005, "scales": [1.0], "calibrated": calibrated}
        small_bundle.write_manifest(small, manifest)
        return open_bundle(small)

    told: list[str] = []
    bundle = calibrate(1)
    checks = verify(bundle, small_windows(), data=painted, told=told.append)
    assert checks[0].miou_change == 0
    assert told == [f"{painted}: left out 1 images of testA that the bundle was calibrated on"]
    seen = verification.find_seen(bundle, painted)
    assert seen == {painted / "testA_1.bmp"}
    with closing(open_backend(bundle, "ort")) as backend:
        assert evaluate(bundle, backend, "glas", painted, "testA", left_out=seen)["images"] == 1
    with pytest.raises(UsageError, match=r"small\.glass was calibrated on all images of testA: leave --data out"):
        verify(calibrate(1, 2), small_windows(), data=painted)


@pytest.mark.parametrize("name", ["fp32.onnx", "int8_cpu.onnx", "fp16.onnx", "example.npz"])
@pytest.mark.parametrize("pinned", [True, False])
def test_a_bundle_with_a_damaged_file_is_not_verified(small: Path, name: str, pinned: bool) -> None:
    """Whether or not this machine runs the graph, and whether or not its manifest names the damaged bytes."""
    manifest = small_bundle.read_manifest(small)
    half = {**manifest["graphs"][0], "file": "fp16.onnx", "precision": "fp16", "target": "gpu"}
    small_bundle.write_manifest(small, {**manifest, "graphs": [*manifest["graphs"], half]})
    shutil.copy(small / "fp32.onnx", small / "fp16.onnx")
    open_bundle(small).check_files()
    content = (small / name).read_bytes()[:-1000]
    if pinned:
        small_bundle.pin(small, name, content)
    else:
        (small / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} (is not|holds no example)"):
        open_bundle(small).check_files()


def run_verify(bundle: Path, tiles: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GLASSRT, "verify", bundle, "--tiles", tiles], capture_output=True, text=True)


def test_a_damaged_graph_for_another_device_ends_in_one_line(small: Path, demo_slide: Path) -> None:
    manifest = small_bundle.read_manifest(small)
    half = {**manifest["graphs"][0], "file": "fp16.onnx", "precision": "fp16", "target": "gpu"}
    small_bundle.write_manifest(small, {**manifest, "graphs": [*manifest["graphs"], half]})
    small_bundle.pin(small, "fp16.onnx", np.random.default_rng(0).bytes(1000))
    done = run_verify(small, demo_slide.parent)
    assert done.returncode == 2
    assert done.stderr.startswith(f"glassrt: {small / 'fp16.onnx'} is not opened: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_graph_that_no_runtime_loads_fails_the_verification(small: Path, demo_slide: Path) -> None:
    model = onnx.load_from_string((small / "int8_cpu.onnx").read_bytes())
    next(node for node in model.graph.node if node.op_type == "MatMul").op_type = "NoSuchThing"
    small_bundle.pin(small, "int8_cpu.onnx", model.SerializeToString())
    done = run_verify(small, demo_slide.parent)
    assert "cannot load the graph" in done.stderr
    assert done.returncode == 1, done.stderr


def test_edge_windows_are_white_black_and_noise() -> None:
    white, black, noise = edge_windows([TensorSpec("image", "uint8", (None, 8, 8, 3))])["image"]
    assert white.min() == 255
    assert black.max() == 0
    assert noise.std() > 50


def test_a_runtime_that_does_not_open_does_not_end_the_verification(
    bundle: Bundle, windows: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX has no device here, whatever `running` says."""
    monkeypatch.setattr(verification, "running", lambda bundle: [("tensorrt-rtx", "fp32"), ("openvino", "fp32")])
    left_out: list[GlassError] = []
    checks = verify(bundle, take(windows, slice(2)), failure=left_out.append)
    assert [each.backend for each in checks] == ["openvino"]
    assert len(left_out) == 1
    assert "no CUDA device" in str(left_out[0])
