"""Real TensorRT-RTX parses and builds without a GPU; what runs a plan needs one."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from known import run_windows
from onnx import TensorProto, helper, numpy_helper
from plain_network import PSPNET

from glassrt.engine.bundles.bundle import Bundle, open_bundle, write_bundle
from glassrt.engine.bundles.checks import TOLERANCES
from glassrt.engine.bundles.parts import Precision
from glassrt.engine.bundles.tensors import TensorSpec
from glassrt.engine.cache import keep, make_folder
from glassrt.engine.errors import BackendUnavailable, BundleError, OutputError
from glassrt.engine.runtimes import flavours
from glassrt.engine.runtimes.device import Device
from glassrt.engine.runtimes.flavours import names_capability
from glassrt.engine.runtimes.open import open_backend, open_plan_backend
from glassrt.engine.runtimes.plans import Entry, Key, open_plan, read_entry, read_timings
from glassrt.engine.runtimes.table import can_run
from glassrt.export import precision, rounding
from glassrt.export.calibration import collect_calibration, collect_windows
from glassrt.export.lowering import describe_graph, lower_precisions

FLAVOUR = "tensorrt-rtx"
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
GLASSRT = Path(sys.executable).parent / "glassrt"


@pytest.fixture(scope="module")
def bundle(demo_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped network in all precisions of GPUs."""
    shipped = open_bundle(PSPNET)
    exact, entries, files = shipped.read_graph(), [shipped.find_graph()], {"fp32.onnx": shipped.read_graph()}
    tissue = collect_calibration(demo_slide.parent, shipped.manifest, wanted=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "FLIPS_AIM", 1.0)  # which layers stay in float32 is another test's
        patch.setattr(rounding, "LONGEST", 0)  # as is what careful rounding saves
        for entry, content in lower_precisions(exact, ("fp16", "int8"), tissue, shipped.manifest):
            entries.append(entry)
            files[entry.file] = content
    manifest = msgspec.structs.replace(shipped.manifest, graphs=tuple(entries), examples=())
    return write_bundle(tmp_path_factory.mktemp("plans") / "made.glass", manifest, files)


def with_graph(bundle: Bundle, folder: Path, graph: bytes) -> Bundle:
    """The bundle with another float32 graph, rightly pinned."""
    manifest = msgspec.structs.replace(bundle.manifest, graphs=(describe_graph("fp32.onnx", graph),))
    return write_bundle(folder / "other.glass", manifest, {"fp32.onnx": graph})


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_builds_and_the_second_time_comes_from_the_cache(
    bundle: Bundle, tmp_path: Path, precision: Precision, caplog: pytest.LogCaptureFixture
) -> None:
    first = open_plan(bundle, FLAVOUR, precision, 2, tmp_path)
    assert "building a plan" in caplog.text
    caplog.clear()
    second = open_plan(bundle, FLAVOUR, precision, 2, tmp_path)
    assert (first.built, second.built) == (True, False)
    assert first.engine == second.engine
    assert len(first.engine) > 1e6
    assert caplog.text == ""
    assert [*tmp_path.iterdir()] == [first.path]
    assert first.key.graph == bundle.find_graph(precision, "gpu").sha256


def test_a_plan_is_for_one_batch_size_and_one_graph(bundle: Bundle, tmp_path: Path) -> None:
    paths = {
        open_plan(bundle, FLAVOUR, precision, batch, tmp_path).path
        for precision in ("fp32", "fp16")
        for batch in (1, 2)
    }
    assert len(paths) == 4 == len([*tmp_path.iterdir()])


def image_spec(side: int) -> TensorSpec:
    return TensorSpec("image", "uint8", (None, side, side, 3))


def test_whatever_differs_makes_another_key() -> None:
    key = Key("0" * 64, "tensorrt", "11.0", Device("NVIDIA H200", "9.0", "580.65"), "fp16", (image_spec(320),), 8)
    others = [
        msgspec.structs.replace(key, **change)
        for change in (
            {"graph": "1" * 64},
            {"flavour": "tensorrt-rtx"},
            {"version": "11.1"},
            {"device": Device("NVIDIA H100", "9.0", "580.65")},
            {"device": Device("NVIDIA H200", "9.1", "580.65")},
            {"device": Device("NVIDIA H200", "9.0", "580.66")},
            {"precision": "int8"},
            {"inputs": (image_spec(321),)},
            {"inputs": (image_spec(320), image_spec(160))},
            {"batch": 9},
            {"recipe": 99},
        )
    ]
    assert len({each.digest for each in (key, *others)}) == 12


def test_a_torn_or_foreign_plan_is_built_again_loudly(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = open_plan(bundle, FLAVOUR, "fp32", 1, tmp_path)
    whole = plan.path.read_bytes()
    entry = msgspec.msgpack.decode(whole, type=Entry)
    key = msgspec.structs.replace(entry.key, device=Device("NVIDIA T4", "7.5", "550.1"))
    foreign = msgspec.structs.replace(entry, key=key)
    older = msgspec.to_builtins(entry)  # as versions wrote it that knew one image of so many pixels
    older["key"]["window"] = older["key"].pop("inputs")[0][2][1]
    spoilt = {
        "is torn or of another ver": msgspec.msgpack.encode({**older, "engine": entry.engine}),
        "is torn": whole[:-1000],
        "is torn or of another version": b"",
        "is damaged": whole[:-1000] + bytes(1000),
        "was made for tensorrt-rtx .* on NVIDIA T4": msgspec.msgpack.encode(foreign),
    }
    for says, content in spoilt.items():
        plan.path.write_bytes(content)
        caplog.clear()
        again = open_plan(bundle, FLAVOUR, "fp32", 1, tmp_path)
        assert again.built
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert re.search(f"{says}.*building it again", record.getMessage())
        assert read_entry(plan.path, plan.key) == plan.engine


def test_a_plan_that_the_caller_found_wanting_is_built_again(bundle: Bundle, tmp_path: Path) -> None:
    open_plan(bundle, FLAVOUR, "fp32", 1, tmp_path)
    assert not open_plan(bundle, FLAVOUR, "fp32", 1, tmp_path).built
    assert open_plan(bundle, FLAVOUR, "fp32", 1, tmp_path, unusable="failed its example").built


def test_a_folder_that_cannot_be_written_is_told(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"plans cannot be kept here .*: set GLASSRT_CACHE"):
        open_plan(bundle, FLAVOUR, "fp32", 1, tmp_path / "file")


def test_a_graph_that_is_none_is_refused_and_nothing_kept(bundle: Bundle, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with pytest.raises(BundleError, match=r"fp32\.onnx is not opened: it is no ONNX file"):
        open_plan(with_graph(bundle, tmp_path, b"no graph" * 100), FLAVOUR, "fp32", 1, kept)
    assert [*kept.iterdir()] == []


def test_a_layer_that_tensorrt_refuses_is_named(bundle: Bundle, tmp_path: Path) -> None:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 320, 320, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2, 20, 20])
    places = [numpy_helper.from_array(np.array([at], np.int64), name) for name, at in (("0", 0), ("1", 1), ("2", 2))]
    turned = helper.make_node("Transpose", ["image"], ["turned"], name="turn.bytes", perm=[0, 3, 1, 2])
    cast = helper.make_node("Cast", ["turned"], ["cast"], name="cast", to=TensorProto.FLOAT)
    means = helper.make_node("AveragePool", ["cast"], ["means"], kernel_shape=[16, 16], strides=[16, 16])
    two = helper.make_node("Slice", ["means", "0", "2", "1"], ["logits"])
    graph = helper.make_graph([turned, cast, means, two], "g", [image], [logits], places)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.checker.check_model(model)
    with pytest.raises(BundleError, match=r"turn\.bytes"):
        open_plan(with_graph(bundle, tmp_path, model.SerializeToString()), FLAVOUR, "fp32", 1, tmp_path / "kept")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.chmod(0o660), r"\.plan can be written by others"),
        (lambda path: path.parent.chmod(0o775), "can be written by others"),
        (lambda path: path.rename(path.with_name("x")) and path.symlink_to("x"), r"\.plan is a link"),
    ],
    ids=["file", "folder", "link"],
)
@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_a_plan_that_others_could_have_written_is_neither_run_nor_replaced(
    bundle: Bundle, tmp_path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    path = open_plan(bundle, FLAVOUR, "fp32", 1, tmp_path / "plans").path
    kept = path.read_bytes()
    spoil(path)
    with pytest.raises(OutputError, match=f"{says}.*native code.*set GLASSRT_CACHE"):
        open_plan(bundle, FLAVOUR, "fp32", 1, tmp_path / "plans")
    assert path.read_bytes() == kept


def test_measurements_that_others_could_have_written_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "plans")
    path = tmp_path / "plans" / "tensorrt-0.timing"
    assert read_timings(path) == b""
    keep(path, b"measured")
    assert read_timings(path) == b"measured"
    path.chmod(0o666)
    with pytest.raises(OutputError, match=r"timing can be written by others"):
        read_timings(path)


def test_a_plan_built_without_a_gpu_is_found_on_a_machine_with_one(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = open_plan(bundle, FLAVOUR, "fp32", 1, tmp_path)
    for device in (Device("NVIDIA RTX A2000", "8.6", "580.65"), Device("NVIDIA GeForce RTX 5090", "12.0", "590.44")):
        monkeypatch.setattr(flavours, "find_device", lambda device=device: device)
        found = open_plan(bundle, FLAVOUR, "fp32", 1, tmp_path)
        assert (found.built, found.path) == (False, built.path)
        assert flavours.knows_device()


@pytest.mark.parametrize(
    ("capability", "known"),
    [("7.5", False), ("8.0", True), ("8.9", True), ("9.0", False), ("10.0", False), ("12.0", True)],
)
def test_rtx_computes_on_what_it_names(capability: str, known: bool) -> None:
    """Neither on Hopper and the data centre's Blackwell, nor on Turing, where it has no float32 matrix products."""
    assert names_capability(capability) == known


def test_a_gpu_that_rtx_does_not_name_is_refused_before_a_plan_is_built(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLASSRT_CACHE", str(tmp_path))
    monkeypatch.setattr(flavours, "find_device", lambda: Device("NVIDIA H100", "9.0", "580.65"))
    with pytest.raises(
        BackendUnavailable, match=r"^tensorrt-rtx [\d.]+ does not compute on NVIDIA H100, .* is 9\.0: choose"
    ):
        open_plan_backend(bundle, FLAVOUR, 1, "fp32")
    assert [*tmp_path.iterdir()] == []


def test_the_command_builds_then_finds(bundle: Bundle, tmp_path: Path) -> None:
    command = [GLASSRT, "plan", bundle.path, "--precision", "fp32,int8", "--batch", "1,2"]
    run = [
        subprocess.run(command, capture_output=True, text=True, env={**os.environ, "GLASSRT_CACHE": str(tmp_path)})
        for _ in range(2)
    ]
    assert [done.returncode for done in run] == [0, 0], run[0].stderr
    assert [done.stdout.count("built in") for done in run] == [4, 0]
    assert [done.stdout.count("kept from before") for done in run] == [0, 4]
    assert [done.stderr.count("building a plan") for done in run] == [4, 0]
    assert len([*(tmp_path / "plans").iterdir()]) == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--batch", "3000000000"], "expected whole numbers from 1 to 256"),
        (["--batch", "0"], "--batch 0: expected whole numbers from 1"),
        (["--precision", "fp8"], "'fp8' is none of fp32, fp16, int8"),
        (["--backend", "ort"], "has no plans; choose tensorrt or tensorrt-rtx"),
        (["--backend", "tensorrt"], r"pip install 'glassrt\[tensorrt\]'|no CUDA device"),
    ],
)
def test_what_has_no_plan_is_told_in_a_line(bundle: Bundle, arguments: list[str], says: str) -> None:
    if "tensorrt" in arguments and find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    done = subprocess.run([GLASSRT, "plan", bundle.path, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.search(says, line)


@pytest.mark.gpu
@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_plan_computes_what_the_graph_does(
    bundle: Bundle,
    demo_slide: Path,
    tmp_path: Path,
    flavour: str,
    precision: Precision,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not can_run(flavour, precision):
        pytest.skip(f"{flavour} does not run here: no CUDA device, or none that it computes on")
    monkeypatch.setenv("GLASSRT_CACHE", str(tmp_path))
    windows = collect_windows(demo_slide.parent, bundle.manifest, wanted=8)["image"]
    exact = open_backend(bundle, "ort", 8)
    wanted = run_windows(exact, windows)
    for _ in range(2):  # built, then kept
        backend = open_backend(bundle, flavour, 8, precision=precision)
        logits = run_windows(backend, windows).copy()
        assert np.abs(logits - wanted).max() <= TOLERANCES[precision].largest * np.abs(wanted).max()
        assert np.array_equal(run_windows(backend, windows[::-1].copy())[::-1], logits)
        backend.close()
