"""A network of two inputs and two outputs, from torch to runtimes: what kinds of bundle to come are made of."""

import hashlib
import re
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from known import tell_precisions
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn

from glassrt.engine.bundles.bundle import Bundle, open_bundle
from glassrt.engine.bundles.example import Known, store_example
from glassrt.engine.bundles.kinds.segmentation import Segmentation
from glassrt.engine.bundles.parts import Example
from glassrt.engine.bundles.tensors import Signature, TensorSpec
from glassrt.engine.errors import BackendUnavailable, UsageError
from glassrt.engine.geometry.plan import InputSpec
from glassrt.engine.runtimes.openvino import OpenVinoBackend
from glassrt.engine.runtimes.ort import OrtBackend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.runtimes.selftest import check_backend
from glassrt.export import precision
from glassrt.export.bundle import infer_exactly
from glassrt.export.comparison import MadeOn, compare, edge_windows, flip_rate, run_each
from glassrt.export.precision import last_layers, run_graph, run_plainly, to_float16, to_int8
from glassrt.export.samples import Samples, count, each, join, take
from glassrt.export.to_onnx import export_graph
from glassrt.export.triton import describe_model, describe_tensors
from glassrt.export.verify import refuse_other

SIGNATURE = Signature(
    (TensorSpec("fine", "uint8", (None, 32, 32, 3)), TensorSpec("context", "uint8", (None, 24, 24, 3))),
    (TensorSpec("logits", "float32", (None, 3, 16, 16)), TensorSpec("score", "float32", (None, 3))),
)


class Two(Segmentation, frozen=True, kw_only=True, tag="two"):
    """A kind whose classes are those of its first output."""

    @property
    def networks(self) -> dict[str, Signature]:  # type: ignore[override]
        return {"main": SIGNATURE}

    def classify(self, outputs: Samples) -> NDArray[np.int64]:
        return np.asarray(outputs["logits"].argmax(1))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.context = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.classify = nn.Conv2d(16, 3, 1)

    def forward(self, fine: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        near = torch.relu(self.fine(fine / 255))
        far = torch.relu(self.context(context / 255)).mean((2, 3), keepdim=True).expand(-1, -1, 16, 16)
        logits = self.classify(torch.cat([near, far], 1))
        return logits, logits.mean((2, 3))


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def graph(network: Network) -> bytes:
    return export_graph(network, SIGNATURE)


@pytest.fixture(scope="module")
def samples() -> Samples:
    random = np.random.default_rng(0)
    return {spec.name: random.integers(0, 256, spec.sized(7), np.uint8) for spec in SIGNATURE.inputs}


@pytest.fixture(scope="module")
def kind() -> Two:
    shipped = open_bundle().manifest
    return Two(**{name: getattr(shipped, name) for name in shipped.__struct_fields__})


def test_samples_are_taken_and_joined_by_window(samples: Samples) -> None:
    assert count(samples) == 7
    again = join(each(samples))
    assert again.keys() == samples.keys()
    assert all(np.array_equal(again[name], samples[name]) for name in samples)
    assert np.array_equal(take(samples, [3])["context"], samples["context"][3:4])


@pytest.mark.parametrize("name", ["ort", "openvino"])
@pytest.mark.parametrize("batch", [1, 4])
def test_it_computes_what_torch_does(network: Network, graph: bytes, samples: Samples, name: str, batch: int) -> None:
    wanted = infer_exactly(network, SIGNATURE, samples)
    backend: Backend = (
        OrtBackend(graph, batch, 1, "fp32") if name == "ort" else OpenVinoBackend(graph, batch, 1, "fp32")
    )
    found = run_each(backend, samples)
    backend.close()
    assert found.keys() == wanted.keys() == {"logits", "score"}
    for spec in SIGNATURE.outputs:
        assert found[spec.name].shape == spec.sized(7)
        assert np.abs(found[spec.name] - wanted[spec.name]).max() < 1e-5


def test_lower_precisions_are_made_of_both_inputs(
    graph: bytes, samples: Samples, kind: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "FLIPS_AIM", 1.0)
    wanted = run_graph(graph, samples)
    made = to_int8(graph, take(samples, slice(4)), take(samples, slice(4, None)), kind)
    for content in (to_float16(graph), *made.graphs.values()):
        found = run_plainly(content, samples)
        assert found.keys() == wanted.keys()
        assert flip_rate(found, wanted, kind) < 0.05
        assert not all(np.array_equal(found[name], wanted[name]) for name in wanted)
    quantised = onnx.load_from_string(made.graphs["cpu"])
    assert sum(node.op_type == "QuantizeLinear" for node in quantised.graph.node) >= 2


@pytest.mark.parametrize("most", [1, 2])
def test_costly_layers_are_left_in_float32_until_the_aim_is_met(
    graph: bytes, samples: Samples, kind: Two, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """With an aim that nothing meets, as many layers as may be are kept, in the order of what they cost."""
    monkeypatch.setattr(precision, "FLIPS_AIM", -1.0)
    monkeypatch.setattr(precision, "MOST_KEPT", most)
    monkeypatch.setattr(precision, "rank_layers", lambda *_: iter(["context", "fine"]))
    made = to_int8(graph, take(samples, slice(4)), take(samples, slice(4, None)), kind)
    assert made.kept == ("classify", "context", "fine")[: 1 + most]
    for content in made.graphs.values():
        told = tell_precisions(content)
        assert {name for name in told if told[name] == "fp32"} == {*made.kept}


class Apart(nn.Module):
    """Each output has a last convolution of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.tell, self.score = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 3, 1)

    def forward(self, fine: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        near, far = self.near((fine - 120) / 60).relu(), self.far((context - 130) / 50).relu()
        return self.tell(near), self.score(far).mean((2, 3))


def test_what_prepares_each_input_and_makes_each_output_stays_in_float32(samples: Samples, kind: Two) -> None:
    torch.manual_seed(0)
    graph = export_graph(Apart(), SIGNATURE)
    model = onnx.load_from_string(to_float16(graph))
    assert sorted(last_layers(model)) == ["score", "tell"]
    constants = {each.name: each.data_type for each in model.graph.initializer}
    weights = {node.name: constants.get(node.input[1]) for node in model.graph.node if node.op_type == "Conv"}
    assert {name for name, stored in weights.items() if stored == TensorProto.FLOAT16} == {"near", "far"}
    prepared = [node for node in model.graph.node if node.op_type in ("Sub", "Div")]
    assert len(prepared) == 4
    assert all(name.endswith("_cast_to_fp32") for node in prepared for name in node.input)
    made = to_int8(graph, take(samples, slice(4)), take(samples, slice(4, None)), kind)
    assert set(made.kept[:2]) == {"score", "tell"}


def test_a_network_that_takes_no_pixels_has_no_edge_windows() -> None:
    made = edge_windows([TensorSpec("features", "float32", (None, 8))])
    assert {name: values.shape for name, values in made.items()} == {"features": (0, 8)}


def test_all_outputs_are_compared(kind: Two) -> None:
    random = np.random.default_rng(1)
    wanted = {spec.name: random.normal(size=spec.sized(4)).astype(np.float32) for spec in SIGNATURE.outputs}
    found = {name: values.copy() for name, values in wanted.items()}
    found["score"][2, 1] += 0.5
    made_on = MadeOn(64 * "0", "ort", "1", "CPU", "avx2", "fp32")
    check = compare(found, wanted, 4, made_on, None, kind)
    values = sum(each.size for each in wanted.values())
    assert (check.flips, check.nan, check.passed, check.windows) == (0.0, 0, False, 4)
    assert check.largest == pytest.approx(0.5)
    assert check.mean == pytest.approx(0.5 / values)
    assert check.reach == float(np.abs(wanted["score"]).max())  # of the output that is furthest off
    found["score"][0, 0] = np.nan
    found["logits"][:2] = -wanted["logits"][:2]
    check = compare(found, wanted, 2, made_on, None, kind)
    assert check.nan == 1
    assert check.flips > 0.5
    assert compare(found, wanted, 2, made_on, None, Untold(**plain(kind))).flips == 0.0


class Untold(Two, frozen=True, kw_only=True, tag="untold"):
    """A kind that tells no classes apart."""

    def classify(self, outputs: Samples) -> None:  # type: ignore[override]
        return None


def plain(kind: Two) -> dict[str, object]:
    return {name: getattr(kind, name) for name in kind.__struct_fields__}


def test_edge_windows_are_of_every_input() -> None:
    made = edge_windows(SIGNATURE.inputs)
    assert {name: values.shape for name, values in made.items()} == {"fine": (3, 32, 32, 3), "context": (3, 24, 24, 3)}
    for white, black, noise in made.values():
        assert (white.min(), black.max()) == (255, 0)
        assert noise.std() > 50


def test_the_example_window_is_the_fine_part(kind: Two, samples: Samples, tmp_path: Path) -> None:
    class Placed(Two, frozen=True, kw_only=True, tag="placed"):
        @property
        def inputs(self) -> tuple[InputSpec, ...]:
            return InputSpec("fine", 32), InputSpec("context", 24, 2.0)

    outputs = {spec.name: np.zeros(spec.sized(1), np.float32) for spec in SIGNATURE.outputs}
    stored = store_example(Known(take(samples, slice(1)), outputs))
    (tmp_path / "example.npz").write_bytes(stored)
    example = Example("example.npz", hashlib.sha256(stored).hexdigest())
    manifest = Placed(**{**plain(kind), "examples": (example,)})
    window = Bundle(tmp_path, manifest, 64 * "0").example_window
    assert np.array_equal(window, samples["fine"][0])


def test_no_number_in_any_output_is_told(graph: bytes, kind: Two, samples: Samples, tmp_path: Path) -> None:
    window = take(samples, slice(1))
    backend = OrtBackend(graph, 1, 1, "fp32")
    stored = store_example(Known(window, backend.infer(window)))
    (tmp_path / "example.npz").write_bytes(stored)
    example = Example("example.npz", hashlib.sha256(stored).hexdigest())
    bundle = Bundle(tmp_path, Two(**{**plain(kind), "examples": (example,)}), 64 * "0")
    check_backend(bundle, backend)

    class Failing(OrtBackend):
        def infer(self, inputs: Samples) -> Samples:
            return {**super().infer(inputs), "score": np.full((1, 3), np.nan, np.float32)}

    with pytest.raises(BackendUnavailable, match="its stored example is off by nan"):
        check_backend(bundle, Failing(graph, 1, 1, "fp32"))


def test_what_is_verified_is_the_first_network_whatever_its_role(kind: Two, tmp_path: Path) -> None:
    class Encoding(Two, frozen=True, kw_only=True, tag="encoding"):
        @property
        def networks(self) -> dict[str, Signature]:  # type: ignore[override]
            return {"encoder": SIGNATURE, "head": Signature(SIGNATURE.outputs, SIGNATURE.outputs[1:])}

    bundle = Bundle(tmp_path, Encoding(**plain(kind)), 64 * "0")
    wanted = {spec.name: np.zeros(spec.sized(3), np.float32) for spec in SIGNATURE.outputs}
    refuse_other(bundle, wanted, 3)
    with pytest.raises(UsageError, match=r"gives score \[3\] for a window, what it is compared with \[\]"):
        refuse_other(bundle, {"logits": wanted["logits"]}, 3)


def test_triton_is_told_of_both(kind: Two) -> None:
    shipped = open_bundle()
    bundle = Bundle(shipped.path, msgspec.structs.replace(kind), shipped.sha256)  # type: ignore[arg-type]
    text = describe_model(bundle, shipped.manifest.graphs[0], "two")
    lines = [re.sub(r"\s+", " ", line) for line in text.splitlines()]
    assert 'input [ { name: "fine" data_type: TYPE_UINT8 dims: [ 32, 32, 3 ] }, ' in text
    assert '{ name: "context" data_type: TYPE_UINT8 dims: [ 24, 24, 3 ] } ]' in text
    assert (
        'output [ { name: "logits" data_type: TYPE_FP32 dims: [ 3, 16, 16 ] }, '
        '{ name: "score" data_type: TYPE_FP32 dims: [ 3 ] } ]'
    ) in lines


def test_triton_is_told_of_lengths_that_are_free() -> None:
    assert "dims: [ -1, 8 ] }" in describe_tensors([TensorSpec("features", "float32", (None, None, 8))])
