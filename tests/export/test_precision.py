"""Lower precisions of the shipped network, calibrated on the slide in the repository."""

import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import onnx
import pytest
from known import tell_precisions
from onnx import TensorProto, numpy_helper
from plain_network import PSPNET

from glassrt.engine.bundles.bundle import Bundle, open_bundle
from glassrt.engine.errors import UsageError
from glassrt.export import precision
from glassrt.export.calibration import collect_windows
from glassrt.export.comparison import edge_windows, flip_rate
from glassrt.export.precision import Int8, last_layers, run_graph, to_float16, to_int8
from glassrt.export.samples import Samples, count, join, take


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(PSPNET)


@pytest.fixture(scope="module")
def windows(bundle: Bundle, demo_slide: Path) -> Samples:
    return collect_windows(demo_slide.parent, bundle.manifest, wanted=16)


@pytest.fixture(scope="module")
def int8(bundle: Bundle, windows: Samples) -> Int8:
    """Made with an aim that needs no ranking of layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "FLIPS_AIM", 0.02)
        return to_int8(bundle.read_graph(), take(windows, slice(8, None)), take(windows, slice(4)), bundle.manifest)


def test_windows_are_tissue_and_the_same_each_time(bundle: Bundle, windows: Samples, demo_slide: Path) -> None:
    (pixels,) = windows.values()
    assert pixels.shape == (16, 320, 320, 3)
    assert len(np.unique(pixels.reshape(16, -1), axis=0)) == 16
    assert pixels.mean(axis=(1, 2, 3)).max() < 235  # glass is 240 and more
    again = collect_windows(demo_slide.parent, bundle.manifest, wanted=16)
    np.testing.assert_array_equal(pixels, again["image"])


def test_float16_is_close_and_its_ends_are_float32(bundle: Bundle, windows: Samples) -> None:
    exact, graph = bundle.read_graph(), to_float16(bundle.read_graph())
    every = join([windows, edge_windows(bundle.manifest.networks["main"].inputs)])
    wanted, given = run_graph(exact, every), run_graph(graph, every)
    assert given["logits"].dtype == np.float32
    assert np.abs(given["logits"] - wanted["logits"]).max() < 0.02 * np.abs(wanted["logits"]).max()
    assert flip_rate(take(given, slice(16)), take(wanted, slice(16)), bundle.manifest) < 0.005
    model = onnx.load_from_string(graph)
    kinds = {initializer.name: initializer.data_type for initializer in model.graph.initializer}
    weights = {node.name: kinds.get(node.input[1]) for node in model.graph.node if node.op_type == "Conv"}
    assert weights.pop(*last_layers(model)) is None  # cast to float32 before it is used
    assert set(weights.values()) == {TensorProto.FLOAT16}
    assert len(graph) < 0.55 * len(exact)


@pytest.mark.slow
def test_int8_loses_little_and_says_what_it_lost(bundle: Bundle, windows: Samples, int8: Int8) -> None:
    """Eight windows of skin calibrate a network of colon worse than its own tissue would."""
    wanted = run_graph(bundle.read_graph(), windows)
    for graph in int8.graphs.values():
        assert flip_rate(run_graph(graph, windows), wanted, bundle.manifest) < 0.02
        assert len(graph) < 0.7 * len(bundle.read_graph())
    assert 0 < int8.lost < 0.02


@pytest.mark.slow
def test_int8_follows_the_rules_of_its_device(int8: Int8) -> None:
    for target, kind in (("cpu", TensorProto.UINT8), ("gpu", TensorProto.INT8)):
        model = onnx.load_from_string(int8.graphs[target])  # type: ignore[index]
        constants = {each.name: each for each in model.graph.initializer}
        quantised = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
        zeros = [constants[node.input[2]] for node in quantised if node.input[0] not in constants]
        assert {zero.data_type for zero in zeros} == {kind}
        weights = [
            constants[node.input[0]]
            for node in model.graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in constants
        ]
        kinds = {weight.data_type for weight in weights}
        if target == "cpu":
            assert kinds == {TensorProto.INT8, TensorProto.INT32}  # biases are quantised too
        else:
            assert kinds == {TensorProto.INT8}
            assert not any(numpy_helper.to_array(zero).any() for zero in zeros)


@pytest.mark.slow
def test_kept_layers_compute_in_float32(int8: Int8) -> None:
    convolutions = tell_precisions(int8.graphs["cpu"])
    assert {name for name, precision in convolutions.items() if precision == "fp32"} == {*int8.kept}
    assert int8.kept[:1] == (*last_layers(onnx.load_from_string(int8.graphs["cpu"])),)


def name_again(graph: bytes) -> bytes:
    from glassrt.export.to_onnx import name_layers

    model = onnx.load_from_string(graph)
    name_layers(model)
    return bytes(model.SerializeToString())


def test_layers_are_ranked_by_what_each_costs_alone(bundle: Bundle, windows: Samples, tmp_path: Path) -> None:
    """A layer whose weights hold one huge value loses all others to eight bits, and comes first."""
    model = onnx.load_from_string(name_again(bundle.read_graph()))
    keep = [node.name for node in model.graph.node if node.op_type == "Conv"]
    spoilt = "encoder._blocks.3._project_conv"
    few = {spoilt, "encoder._blocks.5._project_conv", "encoder._blocks.1._expand_conv"}
    node = next(node for node in model.graph.node if node.name == spoilt)
    weight = next(each for each in model.graph.initializer if each.name == node.input[1])
    values = numpy_helper.to_array(weight).copy()
    values[:, 0] = 300 * np.abs(values).max()
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    source = tmp_path / "fp32.onnx"
    onnx.save(model, source)
    quantiser = precision.Quantiser(
        source,
        tmp_path / "ranges.json",
        take(windows, slice(4)),
        precision.measure_inputs(source.read_bytes(), take(windows, slice(4))),
        {},
    )
    some = take(windows, slice(2))
    exact = run_graph(source.read_bytes(), some)
    ranked = list(precision.rank_layers(quantiser, some, exact, [name for name in keep if name not in few]))
    assert set(ranked) == few
    assert ranked[0] == spoilt


def test_a_calibration_folder_must_hold_tissue(bundle: Bundle, tmp_path: Path, demo_slide: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        collect_windows(tmp_path / "none", bundle.manifest)
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((700, 700, 3), 244, np.uint8))
    (tmp_path / "notes.txt").write_text("no slide")
    with pytest.raises(UsageError, match=r"gave 0 windows of 320 pixels with tissue, 8 are needed"):
        collect_windows(tmp_path, bundle.manifest)
    tissue = collect_windows(demo_slide.parent, bundle.manifest, wanted=8)["image"][0]
    cv2.imwrite(str(tmp_path / "c.png"), tissue)
    with pytest.raises(UsageError, match=r"gave 1 windows"):
        collect_windows(tmp_path, bundle.manifest)
    shutil.copy(demo_slide, tmp_path)
    assert count(collect_windows(tmp_path, bundle.manifest, wanted=8)) == 8


def test_windows_are_taken_at_the_scales_of_the_bundle(bundle: Bundle, demo_slide: Path) -> None:
    finer = msgspec.structs.replace(bundle.manifest, scales=(3.0,))
    coarse, fine = (collect_windows(demo_slide.parent, each, wanted=8)["image"] for each in (bundle.manifest, finer))
    detail = [np.abs(np.diff(each.astype(float), axis=2)).mean() for each in (coarse, fine)]
    assert detail[1] < 0.7 * detail[0]
