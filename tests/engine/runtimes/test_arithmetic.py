"""Eight bits on every kind of processor: what is computed, what is told, what is refused."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from known import image_and_logits
from limited import KINDS, run_emulated, run_limited
from onnx import numpy_helper
from plain_network import PSPNET

from glassrt.engine.bundles.bundle import SHIPPED, Bundle, named_files, open_bundle, write_bundle
from glassrt.engine.bundles.checks import Check, Timing, record_checks
from glassrt.engine.bundles.parts import RunPrecision
from glassrt.engine.errors import BackendUnavailable
from glassrt.engine.runtimes import isa
from glassrt.engine.runtimes.choose import choose, choose_batch, explain_slower
from glassrt.engine.runtimes.products import exact_bits, isa_of, known_products
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.runtimes.table import find_version

BUNDLES = [open_bundle(path) for path in sorted(SHIPPED.glob("*.glass"))]
NAMES = [each.manifest.name for each in BUNDLES if any(graph.precision == "int8" for graph in each.manifest.graphs)]
PROBE = """
import json, sys
from glassrt.engine.runtimes.products import find_exact_bits, isa_of
print(json.dumps({name: [isa_of(name), find_exact_bits(name)] for name in sys.argv[1:]}))
"""
EXAMPLE = """
import json, sys
import numpy as np
from glassrt.engine import open_bundle
from glassrt.engine.runtimes.open import open_backend
found = {}
for name in sys.argv[2:]:
    bundle = open_bundle(name)
    known = bundle.read_example()
    exact = known.outputs["logits"]
    logits = open_backend(bundle, sys.argv[1], precision="int8", threads=1).infer(known.inputs)["logits"]
    found[name] = [float((logits.argmax(1) != exact.argmax(1)).mean()), float(np.abs(logits - exact).max())]
print(json.dumps(found))
"""
OPEN = """
import json, sys
from glassrt.engine import open_bundle
from glassrt.engine.runtimes.choose import choose
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.errors import BackendUnavailable
told = []
for path in sys.argv[2:]:
    try:
        open_backend(open_bundle(path), sys.argv[1], precision="int8", threads=1).close()
        told.append("")
    except BackendUnavailable as error:
        told.append(str(error))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The plain network, not verified anywhere."""
    shipped = open_bundle(PSPNET)
    files = {entry.file: shipped.read_pinned(entry) for entry in named_files(shipped.manifest)}
    return write_bundle(tmp_path_factory.mktemp("bundles") / "copied.glass", shipped.manifest, files)


@pytest.fixture
def bundle(copied: Bundle) -> Bundle:
    (copied.path / "checks.json").unlink(missing_ok=True)
    return copied


def widen(bundle: Bundle, folder: Path, told: int | None) -> Bundle:
    """The bundle with the same weights in eight bits, which `told` may hide: twice as many steps of half the size."""
    model = onnx.load_from_string(bundle.read_graph("int8"))
    constants = {each.name: each for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            weight, scale = constants[node.input[0]], constants[node.input[1]]
            values = numpy_helper.to_array(weight)
            if values.dtype in (np.int8, np.int32):
                most = np.iinfo(values.dtype).max
                doubled = (2 * values.astype(np.int64)).clip(-most, most).astype(values.dtype)
                weight.CopyFrom(numpy_helper.from_array(doubled, weight.name))
                scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) / np.float32(2), scale.name))
    content = model.SerializeToString()
    graphs = tuple(
        msgspec.structs.replace(each, sha256=hashlib.sha256(content).hexdigest(), weight_bits=told)
        if each.precision == "int8"
        else each
        for each in bundle.manifest.graphs
    )
    files = {entry.file: bundle.read_pinned(entry) for entry in named_files(bundle.manifest)}
    manifest = msgspec.structs.replace(bundle.manifest, graphs=graphs)
    return write_bundle(folder / f"told-{told}.glass", manifest, {**files, "int8_cpu.onnx": content})


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_have_seven_bits(name: str) -> None:
    """So that 255 times any two of them is at most 32,640."""
    bundle = open_bundle(name)
    assert bundle.find_graph("int8").weight_bits == 7
    model = onnx.load_from_string(bundle.read_graph("int8"))
    used = {node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    weights = [numpy_helper.to_array(each) for each in model.graph.initializer if each.name in used]
    bytes_ = [each.astype(int) for each in weights if each.dtype == np.int8]
    assert len(bytes_) > 40
    assert not any(each.dtype == np.uint8 for each in weights)
    assert max(np.abs(each).max() for each in bytes_) == 64
    assert sum(path.stat().st_size for path in bundle.path.iterdir()) <= 26e6


def test_the_known_products_are_a_graph_with_known_results() -> None:
    onnx.checker.check_model(onnx.load_from_string(known_products()), full_check=True)


@pytest.mark.parametrize("kind", KINDS)
def test_what_eight_bits_come_to_is_probed(kind: str) -> None:
    assert run_limited(kind, PROBE, "openvino") == {"openvino": [kind, KINDS[kind][2]]}


def test_what_eight_bits_come_to_is_probed_on_avx2_through_both_runtimes() -> None:
    assert run_emulated(PROBE, "ort", "openvino") == {"ort": ["avx2", 7], "openvino": ["avx2", 7]}


@pytest.mark.parametrize(("bits", "largest"), [(8, 127), (7, 64), (0, 20)])
def test_a_runtime_that_cuts_off_is_seen(bits: int, largest: int) -> None:
    """As a stand-in, which gives each filter's weight up to a largest."""

    class Cutting(Backend):
        def infer(self, inputs: object) -> dict[str, np.ndarray]:
            wanted = np.arange(-127, 128, dtype=np.float32).clip(-largest, largest)
            return {"pointwise": np.broadcast_to(wanted[None, :, None, None], (1, 255, 8, 8))}

        def close(self) -> None:
            pass

    assert exact_bits(lambda graph: Cutting()) == bits


@pytest.mark.parametrize("kind", KINDS)
def test_shipped_int8_computes_the_same_on_every_kind_of_processor(kind: str) -> None:
    for name, (flips, largest) in run_limited(kind, EXAMPLE, "openvino", *NAMES).items():
        _, exact = image_and_logits(open_bundle(name))
        assert flips <= 0.01
        assert largest < 0.2 * np.abs(exact).max()


def test_shipped_int8_computes_the_same_through_ort_on_avx2() -> None:
    for name, (flips, largest) in run_emulated(EXAMPLE, "ort", *NAMES).items():
        _, exact = image_and_logits(open_bundle(name))
        assert flips <= 0.01
        assert largest < 0.2 * np.abs(exact).max()


@pytest.mark.parametrize("kind", KINDS)
def test_eight_bit_weights_are_refused_where_they_are_cut_off(kind: str, tmp_path: Path) -> None:
    """By the manifest where it says so, by the example where it does not."""
    older, lying = (widen(open_bundle(PSPNET), tmp_path, told).path for told in (None, 7))
    refused, missed = run_limited(kind, OPEN, "openvino", older, lying)
    if KINDS[kind][2] == 8:
        assert (refused, missed) == ("", "")
    else:
        assert refused.startswith(f"int8 is not offered: openvino on this processor ({kind}) cuts off sums of 8-bit")
        assert "does not compute what" in missed


def test_eight_bit_weights_are_refused_on_avx2_through_ort(tmp_path: Path) -> None:
    older, lying = (widen(open_bundle(PSPNET), tmp_path, told).path for told in (None, 7))
    refused, missed = run_emulated(OPEN, "ort", older, lying)
    assert refused.startswith("int8 is not offered: ort on this processor (avx2) cuts off sums of 8-bit weights")
    assert "does not compute what" in missed


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (set(), "sse"),
        ({"avx2"}, "avx2"),
        ({"avx2", "avx_vnni"}, "avx2-vnni"),
        ({"avx2", "avx512"}, "avx512"),
        ({"avx2", "avx512", "avx512_vnni"}, "avx512-vnni"),
        ({"avx2", "avx512", "avx512_vnni", "bf16"}, "avx512-vnni-bf16"),
        ({"avx2", "avx_vnni", "avx512", "avx512_vnni", "bf16", "amx"}, "avx512-vnni-bf16-amx"),
    ],
)
def test_processors_that_compute_differently_have_different_names(found: set[str], name: str) -> None:
    assert isa.name_features(found) == name


@pytest.mark.parametrize(
    ("flags", "seen"),
    [
        ("avx2 avx512bw avx512_vnni avx512_bf16 amx_int8", {"avx2", "avx512", "avx512_vnni", "bf16", "amx"}),
        ("avx2 avx_vnni", {"avx2", "avx512", "avx512_vnni"}),  # of another processor than the one that is asked
        ("", {"avx2", "avx512", "avx512_vnni"}),
    ],
)
def test_flags_are_believed_that_fit_what_the_processor_says(
    flags: str, seen: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    monkeypatch.setattr(cv2, "checkHardwareSupport", lambda number: number in isa.ASKED.values())
    monkeypatch.setattr(isa, "CPUINFO", tmp_path / "cpuinfo")
    if flags:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    assert isa.find_features() == seen


def test_what_opencv_says_is_what_linux_says() -> None:
    if not (flags := isa.read_flags()):
        pytest.skip("only Linux on x86-64 tells the flags")
    assert {name for flag, name in isa.TOLD.items() if flag in flags} == isa.find_features() & set(isa.TOLD.values())


@pytest.mark.parametrize("disabled", ["AVX512-SKX", "AVX2,AVX512-SKX"])
def test_what_opencv_is_told_to_hide_is_there_all_the_same(disabled: str) -> None:
    if not isa.read_flags():
        pytest.skip("only Linux on x86-64 tells the flags")
    command = [sys.executable, "-c", "from glassrt.engine.runtimes.isa import cpu_isa; print(cpu_isa())"]
    environment = {**os.environ, isa.HIDING: disabled}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == isa.cpu_isa()


def check(bundle: Bundle, name: str, precision: RunPrecision, passed: bool = True, ms: float | None = None) -> Check:
    """A check made here, in which a runtime took so long."""
    version = find_version({"ort": "onnxruntime"}.get(name, name)) or pytest.fail("not installed")
    timing = None if ms is None else Timing(isa.processor_name(), isa.count_cores(), 4, ms)
    made = (bundle.sha256, name, version, "CPU", isa_of(name), precision)
    return Check(*made, passed, 1, 0.0, 0.0, 0, 0.0, timing=timing)


def test_a_failed_check_is_obeyed_in_every_precision(bundle: Bundle) -> None:
    record_checks(bundle, [check(bundle, "openvino", "fp32", passed=False)])
    assert choose(bundle, "auto", "auto") == choose(bundle, "auto", "fp32") == ("ort", "fp32")
    record_checks(bundle, [check(bundle, "ort", "fp32", passed=False)])
    with pytest.raises(BackendUnavailable, match=r"failed its verification here in fp32 through openvino and fp32 thr"):
        choose(bundle, "auto", "fp32")
    assert choose(bundle, "ort", "fp32") == ("ort", "fp32")  # which is named in full


def test_what_was_measured_here_goes_before_what_was_measured_elsewhere(bundle: Bundle) -> None:
    taken = [("openvino", 9.0), ("ort", 5.0)]
    record_checks(bundle, [check(bundle, name, "fp32", ms=ms) for name, ms in taken])
    assert choose(bundle, "auto", "fp32") == ("ort", "fp32")
    assert choose_batch(bundle, "ort", "fp32") == 4
    other = Timing("another processor", 2, 4, 5.0)
    record_checks(bundle, [msgspec.structs.replace(check(bundle, "ort", "fp32"), timing=other)])
    assert choose(bundle, "auto", "fp32") == ("openvino", "fp32")


@pytest.mark.parametrize("other", [{"batch": 1000}, {"batch": 0}, {"ms": -1.0}])
def test_a_timing_that_there_cannot_be_counts_as_none(bundle: Bundle, other: dict[str, float]) -> None:
    taken = check(bundle, "ort", "fp32", ms=5.0)
    timing = msgspec.structs.replace(taken.timing or pytest.fail("not timed"), **other)
    record_checks(bundle, [check(bundle, "openvino", "fp32", ms=9.0), msgspec.structs.replace(taken, timing=timing)])
    assert choose(bundle, "auto", "fp32") == ("openvino", "fp32")
    assert choose_batch(bundle, "ort", "fp32") in (1, 4)


def test_why_it_runs_slower_is_said_with_what_changes_that(bundle: Bundle) -> None:
    chosen: tuple[str, RunPrecision] = ("openvino", "fp32")
    assert choose(bundle, "auto", "auto") == chosen
    line = explain_slower(bundle, "auto", chosen)
    assert line.startswith("Runs in fp32: int8 was not verified with openvino ")
    assert line.endswith(f"; glassrt verify {bundle.path} --tiles DIR may make it faster")
    assert f"({isa_of('openvino')})" in line
    record_checks(bundle, [check(bundle, "openvino", "int8")])
    assert choose(bundle, "auto", "auto") == ("openvino", "int8")
    assert explain_slower(bundle, "auto", ("openvino", "int8")) == ""
    record_checks(bundle, [check(bundle, "openvino", "int8", passed=False)])
    assert "int8 failed its verification with openvino" in explain_slower(bundle, "auto", chosen)
