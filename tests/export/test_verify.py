"""A bundle's own verification, and what runs because of it."""

import hashlib
import json
import shutil
import subprocess
import sys
from contextlib import closing
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import small_bundle
from numpy.typing import NDArray
from onnx import numpy_helper

from glassrt.engine.bundles.bundle import SHIPPED, Bundle, named_files, open_bundle, write_bundle
from glassrt.engine.bundles.checks import Check, read_checks, record_checks
from glassrt.engine.bundles.parts import RunPrecision
from glassrt.engine.errors import BackendUnavailable, BundleError, GlassError, OutputError, UsageError
from glassrt.engine.runtimes.choose import choose
from glassrt.engine.runtimes.isa import cpu_isa
from glassrt.engine.runtimes.open import open_backend
from glassrt.export import verify as verification
from glassrt.export.bundle import describe_graph
from glassrt.export.calibration import collect_windows
from glassrt.export.comparison import MadeOn, compare, edge_windows
from glassrt.export.ground import fingerprint
from glassrt.export.verify import verify
from glassrt.training.evaluate import evaluate

GLASSRT = Path(sys.executable).parent / "glassrt"


@pytest.fixture(scope="module")
def windows(demo_slide: Path) -> NDArray[np.uint8]:
    return collect_windows(demo_slide.parent, open_bundle().manifest, wanted=12)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped bundle, as if it was not verified yet."""
    shipped = open_bundle()
    files = {entry.file: shipped.read_pinned(entry) for entry in named_files(shipped.manifest)}
    return write_bundle(tmp_path_factory.mktemp("bundles") / "made.glass", shipped.manifest, files)


@pytest.fixture
def bundle(made: Bundle, tmp_path: Path) -> Bundle:
    return open_bundle(shutil.copytree(made.path, tmp_path / "made.glass"))


def check(
    bundle: Bundle, backend: str, precision: RunPrecision, passed: bool, elsewhere: dict[str, str] | None = None
) -> Check:
    """A check that was made here, but for what is said to be `elsewhere`."""
    runtime = metadata.version({"ort": "onnxruntime"}.get(backend, backend))
    made = Check(bundle.sha256, backend, runtime, "CPU", cpu_isa(), precision, passed, 1, 0.0, 0.0, 0, 0.0)
    return msgspec.structs.replace(made, **elsewhere or {})


@pytest.mark.slow
def test_every_runtime_and_precision_is_checked_and_recorded(bundle: Bundle, demo_slide: Path, tmp_path: Path) -> None:
    figures = tmp_path / "checks.json"
    command = [GLASSRT, "verify", bundle.path, "--tiles", demo_slide.parent, "--json", figures]
    done = subprocess.run(command, capture_output=True, text=True)
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
def test_a_graph_that_is_off_fails_and_is_not_chosen(bundle: Bundle, demo_slide: Path) -> None:
    model = onnx.load_from_string(bundle.read_graph("int8"))
    bias = next(each for each in model.graph.initializer if each.name.endswith("classify.1.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32([4, -4]), bias.name))
    content = model.SerializeToString()
    graphs = (bundle.manifest.graphs[0], describe_graph("int8_cpu.onnx", content, "int8", "cpu", weight_bits=7))
    exact = bundle.read_graph()
    manifest = msgspec.structs.replace(bundle.manifest, graphs=graphs, example=None)
    spoilt = write_bundle(bundle.path, manifest, {"fp32.onnx": exact, "int8_cpu.onnx": content})
    command = [GLASSRT, "verify", spoilt.path, "--tiles", demo_slide.parent]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert choose(open_bundle(spoilt.path), "auto", "auto")[1] != "int8"


def test_logits_of_another_graph_are_told_from_the_exact(bundle: Bundle, windows: NDArray[np.uint8]) -> None:
    """`--against`: what the float32 graph computes is compared with what it should."""

    def other(asked: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert len(asked) == 5
        return np.zeros((5, 2, 20, 20), np.float32)

    checks = verify(bundle, windows[:2], other)
    assert not any(each.passed for each in checks)


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 4, 4)])
def test_logits_of_another_shape_are_refused_in_a_line(small: Path, shape: tuple[int, ...]) -> None:
    """As of a run with another output stride or other classes."""
    with pytest.raises(UsageError, match=r"small\.glass gives logits \[2, 4, 4\] for a window, what it is compared wi"):
        verify(open_bundle(small), small_windows(), lambda asked: np.zeros((len(asked), *shape), np.float32))


@pytest.mark.parametrize(
    ("shift", "passed"), [(0.0, True), (np.nan, False), (1.0, False)], ids=["equal", "not a number", "shifted"]
)
def test_a_check_fails_beyond_its_tolerance(shift: float, passed: bool) -> None:
    wanted = np.random.default_rng(0).normal(0, 5, (4, 2, 6, 6)).astype(np.float32)
    logits = wanted.copy()
    logits[0, 0, 0, 0] += shift
    found = compare(logits, wanted, 3, MadeOn(64 * "0", "ort", "1.0", "CPU", "avx2", "fp32"), None)
    assert found.passed is passed
    assert found.nan == int(np.isnan(shift))


def test_lost_accuracy_fails_whatever_the_logits_are() -> None:
    wanted = np.ones((2, 2, 4, 4), np.float32)
    assert compare(wanted, wanted, 1, MadeOn(64 * "0", "ort", "1.0", "CPU", "avx2", "int8"), -0.4).passed
    assert not compare(wanted, wanted, 1, MadeOn(64 * "0", "ort", "1.0", "CPU", "avx2", "int8"), -0.6).passed


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return small_bundle.make_bundle(tmp_path / "small.glass")


def small_windows(count: int = 2) -> NDArray[np.uint8]:
    side = small_bundle.WINDOW
    return np.random.default_rng(2).integers(0, 256, (count, side, side, 3), np.uint8)


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
    white, black, noise = edge_windows(8)
    assert white.min() == 255
    assert black.max() == 0
    assert noise.std() > 50


def test_auto_takes_the_fastest_that_was_verified(bundle: Bundle) -> None:
    assert choose(bundle, "auto", "auto") == ("openvino", "fp32")
    record_checks(bundle, [check(bundle, name, "int8", True) for name in ("openvino", "ort")])
    assert choose(bundle, "auto", "auto") == ("openvino", "int8")
    assert choose(bundle, "ort", "auto") == ("ort", "int8")
    assert choose(bundle, "auto", "fp32") == ("openvino", "fp32")
    record_checks(bundle, [check(bundle, name, "int8", False) for name in ("openvino", "ort")])
    assert choose(bundle, "auto", "auto") == ("openvino", "fp32")
    assert choose(bundle, "openvino", "auto") == ("openvino", "fp32")


@pytest.mark.parametrize("elsewhere", [{"isa": "another"}, {"version": "0.1"}, {"device": "NPU"}, {"bundle": 64 * "0"}])
def test_a_check_from_elsewhere_counts_as_none(bundle: Bundle, elsewhere: dict[str, str]) -> None:
    record_checks(bundle, [check(bundle, "openvino", "int8", True, elsewhere)])
    assert choose(bundle, "auto", "auto") == ("openvino", "fp32")


def test_what_cannot_run_is_told(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="precision 'fp8' does not exist"):
        open_backend(bundle, precision="fp8")
    with pytest.raises(BundleError, match="has no fp16 graph for gpu"):
        open_backend(bundle, precision="fp16")
    half = msgspec.structs.replace(bundle.manifest.graphs[0], precision="fp16", target="gpu")
    manifest = msgspec.structs.replace(bundle.manifest, graphs=(*bundle.manifest.graphs, half))
    with pytest.raises(
        BackendUnavailable, match=r"nothing here runs .* in precision fp16: pip install .*\[tensorrt-rtx\]"
    ):
        open_backend(Bundle(bundle.path, manifest, bundle.sha256), precision="fp16")
    with pytest.raises(UsageError, match="precision bf16 does not run through ort"):
        open_backend(bundle, "ort", precision="bf16")
    exact = msgspec.structs.replace(bundle.manifest, graphs=bundle.manifest.graphs[:1])
    with pytest.raises(BundleError, match="has no int8 graph for cpu; it holds fp32 for any"):
        open_backend(Bundle(bundle.path, exact, bundle.sha256), precision="int8")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_check_that_is_not_finite_leaves_the_bundle_whole(bundle: Bundle, bad: float) -> None:
    wanted = np.ones((2, 2, 4, 4), np.float32)
    logits = wanted.copy()
    logits[0, 0, 0, 0] = bad
    made_on = MadeOn(bundle.sha256, "tensorrt", "11.0", "GPU", "sm_90", "fp16")
    found = compare(logits, wanted, 1, made_on, None)
    assert (found.passed, found.nan, found.largest) == (False, 1, 0.0)
    record_checks(bundle, [found])
    assert read_checks(open_bundle(bundle.path)) == (found,)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_exact_logits_that_are_no_numbers_fail_and_are_counted(bundle: Bundle, bad: float) -> None:
    wanted = np.ones((2, 2, 4, 4), np.float32)
    wanted[0, 0, 0, :2] = bad
    made_on = MadeOn(bundle.sha256, "ort", metadata.version("onnxruntime"), "CPU", cpu_isa(), "fp32")
    for logits in (wanted, np.ones_like(wanted)):
        found = compare(logits, wanted, 1, made_on, None)
        assert (found.passed, found.nan, found.largest, found.mean) == (False, 2, 0.0, 0.0)
    record_checks(bundle, [found])
    assert read_checks(bundle) == (found,)
    assert choose(bundle, "auto", "fp32") == ("openvino", "fp32")


def test_differences_beyond_float32_stay_numbers(bundle: Bundle) -> None:
    wanted = np.full((1, 2, 4, 4), 3e38, np.float32)
    found = compare(-wanted, wanted, 1, MadeOn(bundle.sha256, "ort", "1", "CPU", "avx2", "fp32"), None)
    assert not found.passed
    record_checks(bundle, [found])
    assert read_checks(bundle) == (found,)


def test_a_damaged_check_leaves_the_others_which_is_told_once(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    failed, passed = check(bundle, "openvino", "fp32", False), check(bundle, "ort", "int8", True)
    file = record_checks(bundle, [failed, passed])
    checks = json.loads(file.read_text())
    damaged = {**checks[0], "backend": "ort", "largest": None}
    file.write_text(json.dumps([damaged, *checks]))
    assert read_checks(bundle) == read_checks(bundle) == (failed, passed)
    assert len(caplog.messages) == 1
    assert f"{file}: 1 of its checks count as none (Expected `float`, got `null` - at `$.largest`)" in caplog.text
    assert choose(bundle, "auto", "fp32") == ("ort", "fp32")
    other = check(bundle, "openvino", "int8", True)
    record_checks(bundle, [other])
    assert read_checks(bundle) == (failed, passed, other)


def test_checks_of_other_devices_stay(bundle: Bundle) -> None:
    """A bundle is verified on one machine after the other; on the same again, the newer check counts."""
    here, there = check(bundle, "ort", "int8", True), check(bundle, "ort", "int8", True, {"isa": "another"})
    record_checks(bundle, [here])
    assert record_checks(open_bundle(bundle.path), [there]) == bundle.path / "checks.json"
    assert read_checks(bundle) == (here, there)
    worse = check(bundle, "ort", "int8", False)
    record_checks(bundle, [worse])
    assert read_checks(bundle) == (worse, there)


def test_a_runtime_that_does_not_open_does_not_end_the_verification(
    bundle: Bundle, windows: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX has no device here, whatever `running` says."""
    monkeypatch.setattr(verification, "running", lambda bundle: [("tensorrt-rtx", "fp32"), ("openvino", "fp32")])
    left_out: list[GlassError] = []
    checks = verify(bundle, windows[:2], failure=left_out.append)
    assert [each.backend for each in checks] == ["openvino"]
    assert len(left_out) == 1
    assert "no CUDA device" in str(left_out[0])


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_checks_of_a_bundle_that_others_own_lie_in_the_users_cache(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a folder stands in the way, for whoever runs this may write everywhere."""
    monkeypatch.setenv("GLASSRT_CACHE", str(tmp_path / "cache"))
    (bundle.path / "checks.json").mkdir()
    (bundle.path / "checks.json" / "kept").touch()
    made = check(bundle, "ort", "int8", True)
    kept = record_checks(bundle, [made])
    assert kept == tmp_path / "cache" / "checks" / f"{bundle.sha256}.json"
    assert read_checks(bundle) == (made,)
    assert choose(bundle, "ort", "auto") == ("ort", "int8")
    shutil.rmtree(bundle.path / "checks.json")
    other = check(bundle, "openvino", "int8", True)
    assert record_checks(bundle, [other]) == bundle.path / "checks.json"
    assert read_checks(bundle) == (made, other)
    assert not kept.exists()


RECORD = """
import sys
from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.bundles.checks import Check, record_checks
bundle = open_bundle(sys.argv[1])
for number in range(20):
    made_on = (bundle.sha256, "ort", f"{sys.argv[2]}.{number}", "CPU", "avx2", "int8")
    record_checks(bundle, [Check(*made_on, True, 1, 0.0, 0.0, 0, 0.0)])
"""


@pytest.mark.parametrize("writable", [True, False])
def test_processes_that_record_at_once_lose_no_check(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    monkeypatch.setenv("GLASSRT_CACHE", str(tmp_path / "cache"))
    (small / "checks.json").unlink()
    if not writable:
        (small / "checks.json").symlink_to("nowhere")
    commands = [[sys.executable, "-c", RECORD, small, name] for name in "abc"]
    started = [subprocess.Popen(command) for command in commands]
    assert [each.wait() for each in started] == [0, 0, 0]
    assert len(read_checks(open_bundle(small))) == 60
    assert not list(small.glob(".glassrt-*"))


@pytest.mark.parametrize("failed_beside", [True, False])
def test_of_two_checks_of_the_same_the_failure_counts(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed_beside: bool
) -> None:
    monkeypatch.setenv("GLASSRT_CACHE", str(tmp_path / "cache"))
    beside, own = (check(bundle, "openvino", "int8", passed) for passed in (not failed_beside, failed_beside))
    file = tmp_path / "cache" / "checks" / f"{bundle.sha256}.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(msgspec.json.encode([own]))
    (bundle.path / "checks.json").write_bytes(msgspec.json.encode([beside]))
    assert [each.passed for each in read_checks(bundle)] == [False]
    record_checks(bundle, [check(bundle, "openvino", "int8", True)])  # verified again
    assert [each.passed for each in read_checks(bundle)] == [True]


@pytest.mark.parametrize(
    "figures",
    [{"largest": 1e6}, {"reach": 4.0, "largest": 1.1}, {"flips": 0.02}, {"flips": -1.0}, {"miou_change": -0.6},
     {"nan": 1}, {"windows": 0}],
)  # fmt: skip
def test_a_check_that_passed_with_figures_that_do_not_counts_as_failed(
    bundle: Bundle, figures: dict[str, float]
) -> None:
    claimed = msgspec.structs.replace(check(bundle, "openvino", "int8", True), **figures)
    (bundle.path / "checks.json").write_bytes(msgspec.json.encode([claimed]))
    assert [each.passed for each in read_checks(bundle)] == [False]
    assert choose(bundle, "auto", "auto") == ("openvino", "fp32")


def test_shipped_checks_hold_the_figures_that_they_say() -> None:
    for path in SHIPPED.glob("*.glass"):
        stored = msgspec.json.decode((path / "checks.json").read_bytes(), type=list[Check])
        assert stored
        assert [each.passed for each in stored] == [each.is_within for each in stored]


def test_what_a_link_leads_to_is_neither_believed_nor_replaced(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GLASSRT_CACHE", str(tmp_path / "cache"))
    made, other = check(bundle, "ort", "int8", True), check(bundle, "openvino", "int8", True)
    victim = record_checks(bundle, [other]).rename(tmp_path / "victim.json")
    (bundle.path / "checks.json").symlink_to(victim)
    content = victim.read_bytes()
    kept = record_checks(bundle, [made])
    assert kept == tmp_path / "cache" / "checks" / f"{bundle.sha256}.json"
    assert read_checks(bundle) == (made,)
    assert victim.read_bytes() == content
    assert len(caplog.messages) == 1
    assert f"{bundle.path / 'checks.json'} is a link, or no file, and counts as none" in caplog.text
    kept.unlink()
    kept.symlink_to(victim)
    with pytest.raises(OutputError, match=r"is a link, or no file, and is not replaced: remove it"):
        record_checks(bundle, [made])
    assert victim.read_bytes() == content


@pytest.mark.slow
def test_a_bundle_is_verified_with_what_the_extra_cpu_installs_and_only_its_checks_change(
    made: Bundle, bundle: Bundle, demo_slide: Path
) -> None:
    """Neither torch nor onnx can be imported, as where they are not installed."""
    block = "import sys; [sys.modules.update({name: None}) for name in ('torch', 'onnx', 'onnxscript', 'safetensors')]"
    call = f"{block}; from glassrt.engine.commands.main import main; main()"
    before = hashes(made.path)
    command = [sys.executable, "-c", call, "verify", bundle.path, "--tiles", demo_slide.parent]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: skin, which the network did not learn, flips more
    assert "Traceback" not in done.stderr
    after = hashes(bundle.path)
    assert after.pop("checks.json")
    assert after == before
    assert "does not say what it was calibrated on" in done.stderr
    done = subprocess.run([*command, "--against", "run"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("glassrt: this needs torch, which is not installed: pip install")
