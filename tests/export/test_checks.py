"""What a check says, where it is recorded, and what runs because of it."""

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np
import pytest
from plain_network import PSPNET

from glassrt.engine.bundles.bundle import SHIPPED, Bundle, open_bundle
from glassrt.engine.bundles.checks import Check, read_checks, record_checks
from glassrt.engine.bundles.parts import RunPrecision
from glassrt.engine.errors import BackendUnavailable, BundleError, OutputError, UsageError
from glassrt.engine.runtimes.choose import choose
from glassrt.engine.runtimes.isa import cpu_isa
from glassrt.engine.runtimes.open import open_backend
from glassrt.export.comparison import MadeOn, compare


def check(
    bundle: Bundle, backend: str, precision: RunPrecision, passed: bool, elsewhere: dict[str, str] | None = None
) -> Check:
    """A check that was made here, but for what is said to be `elsewhere`."""
    runtime = metadata.version({"ort": "onnxruntime"}.get(backend, backend))
    made = Check(bundle.sha256, backend, runtime, "CPU", cpu_isa(), precision, passed, 1, 0.0, 0.0, 0, 0.0)
    return msgspec.structs.replace(made, **elsewhere or {})


@pytest.mark.parametrize(
    ("shift", "passed"), [(0.0, True), (np.nan, False), (1.0, False)], ids=["equal", "not a number", "shifted"]
)
def test_a_check_fails_beyond_its_tolerance(shift: float, passed: bool) -> None:
    wanted = np.random.default_rng(0).normal(0, 5, (4, 2, 6, 6)).astype(np.float32)
    logits = wanted.copy()
    logits[0, 0, 0, 0] += shift
    found = compare_logits(logits, wanted, 3, MadeOn(64 * "0", "ort", "1.0", "CPU", "avx2", "fp32"), None)
    assert found.passed is passed
    assert found.nan == int(np.isnan(shift))


def test_lost_accuracy_fails_whatever_the_logits_are() -> None:
    wanted = np.ones((2, 2, 4, 4), np.float32)
    assert compare_logits(wanted, wanted, 1, MadeOn(64 * "0", "ort", "1.0", "CPU", "avx2", "int8"), -0.4).passed
    assert not compare_logits(wanted, wanted, 1, MadeOn(64 * "0", "ort", "1.0", "CPU", "avx2", "int8"), -0.6).passed


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
    found = compare_logits(logits, wanted, 1, made_on, None)
    assert (found.passed, found.nan, found.largest) == (False, 1, 0.0)
    record_checks(bundle, [found])
    assert read_checks(open_bundle(bundle.path)) == (found,)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_exact_logits_that_are_no_numbers_fail_and_are_counted(bundle: Bundle, bad: float) -> None:
    wanted = np.ones((2, 2, 4, 4), np.float32)
    wanted[0, 0, 0, :2] = bad
    made_on = MadeOn(bundle.sha256, "ort", metadata.version("onnxruntime"), "CPU", cpu_isa(), "fp32")
    for logits in (wanted, np.ones_like(wanted)):
        found = compare_logits(logits, wanted, 1, made_on, None)
        assert (found.passed, found.nan, found.largest, found.mean) == (False, 2, 0.0, 0.0)
    record_checks(bundle, [found])
    assert read_checks(bundle) == (found,)
    assert choose(bundle, "auto", "fp32") == ("openvino", "fp32")


def test_differences_beyond_float32_stay_numbers(bundle: Bundle) -> None:
    wanted = np.full((1, 2, 4, 4), 3e38, np.float32)
    found = compare_logits(-wanted, wanted, 1, MadeOn(bundle.sha256, "ort", "1", "CPU", "avx2", "fp32"), None)
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


def compare_logits(
    found: np.ndarray, wanted: np.ndarray, real: int, made_on: MadeOn, miou_change: float | None
) -> Check:
    return compare({"logits": found}, {"logits": wanted}, real, made_on, miou_change, open_bundle(PSPNET).manifest)


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
