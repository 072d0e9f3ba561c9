"""What an ONNX file leads to is seen before a runtime opens it."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_bundle
from onnx import TensorProto, helper, numpy_helper

from glassrt.engine.bundles.bundle import SHIPPED, open_bundle
from glassrt.engine.bundles.scan import scan_graph
from glassrt.engine.bundles.tensors import TensorSpec
from glassrt.engine.errors import BundleError
from glassrt.engine.runtimes.open import open_backend
from glassrt.export.triton import write_repository

WEIGHTS = np.arange(16 * 16, dtype=np.float32).reshape(16, 16)


def stored_outside(name: str) -> TensorProto:
    """A tensor whose values lie in a file of the current folder."""
    tensor = numpy_helper.from_array(WEIGHTS, name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def in_initializer(model: onnx.ModelProto) -> None:
    pool = next(each for each in model.graph.initializer if each.name == "pool")
    pool.CopyFrom(stored_outside("pool"))


def in_constant(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["outside"], value=stored_outside("value"))
    model.graph.node.insert(0, node)


def in_branches(model: onnx.ModelProto, depth: int = 2) -> None:
    """In a branch of a branch of a node that chooses between them."""
    other, inner = (helper.make_graph([], "inner", [], [], some) for some in ([], [stored_outside("outside")]))
    for _ in range(depth):
        node = helper.make_node("If", ["condition"], ["chosen"], then_branch=inner, else_branch=other)
        inner = helper.make_graph([node], "outer", [], [])
    model.graph.node.extend(inner.node)


def in_function(model: onnx.ModelProto) -> None:
    nodes = [helper.make_node("Constant", [], ["outside"], value=stored_outside("value"))]
    model.functions.append(helper.make_function("", "Odd", [], ["outside"], nodes, model.opset_import))


def in_training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.initializer.append(stored_outside("outside"))


def in_sparse(model: onnx.ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add(dims=[16])
    sparse.values.CopyFrom(stored_outside("outside"))


def by_location_alone(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="weights.bin")


OUTSIDE = [in_initializer, in_constant, in_branches, in_function, in_training, by_location_alone]


def changed(change: Callable[[onnx.ModelProto], object]) -> bytes:
    model = onnx.load_from_string(small_bundle.make_graph(False))
    change(model)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.glass")))
def test_shipped_graphs_are_told_by_what_they_take_and_give(name: str) -> None:
    bundle = open_bundle(name)
    for graph in bundle.manifest.graphs:
        image, side = TensorSpec("image", "uint8", (None, 320, 320, 3)), 320 // bundle.segmentation.output_stride
        logits = ("float32", (None, bundle.segmentation.planes, side, side))
        signature = scan_graph(bundle.read_pinned(graph))
        assert signature.inputs == (image,)
        assert [(each.dtype, each.shape) for each in signature.outputs] == [logits]


def test_a_scan_takes_no_time_over_weights() -> None:
    def add(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(25_000_000, np.float32), "huge"))

    content = changed(add)
    start = time.perf_counter()
    scan_graph(content)
    assert time.perf_counter() - start < 0.2


@pytest.mark.parametrize("change", OUTSIDE)
def test_weights_in_another_file_are_refused_wherever_they_are_named(change: Callable[[onnx.ModelProto], None]) -> None:
    with pytest.raises(ValueError, match="weights lie in another file, which nothing pins"):
        scan_graph(changed(change))


def test_a_location_is_seen_however_its_number_is_written() -> None:
    """Readers take 2^32 + 1 for 1: the length of a number is no disguise."""
    tensor = numpy_helper.from_array(WEIGHTS, "pool").SerializeToString() + b"\x70\x81\x80\x80\x80\x10"
    content = bytearray(small_bundle.make_graph(False))
    graph = b"\x2a" + small_bundle.varint(len(tensor)) + tensor
    content += b"\x3a" + small_bundle.varint(len(graph)) + graph
    with pytest.raises(ValueError, match="weights lie in another file"):
        scan_graph(bytes(content))


def too_deep(model: onnx.ModelProto) -> None:
    in_branches(model, 25)


def with_domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.microsoft"


def with_versions(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 1 << 62


def with_claims(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [1 << 20, 1 << 25]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no ONNX file"),
        (b"\x08", "no ONNX file"),
        (b"<net/>", "no ONNX file"),
        (b"\x08\x0a", "holds 0 graphs"),
        (b"\x08\x0a\x3a\xff\xff\xff\xff\x0f", "cut short"),
        (b"\x08\x0a\x12\x02ORTM", "another format"),
        (b"\x08\x0a" + b"\x28\x01" * 2_000_000, "more than 1000000 fields"),
        (b"\x08\x0a\x0b\x0c", "no ONNX file"),
        (small_bundle.make_graph(False)[:-20], "cut short|no ONNX file"),
        (small_bundle.make_graph(False) * 2, "holds 2 graphs"),
        (changed(too_deep), "deep in one another"),
        (changed(with_domain), "needs operations of 'com.microsoft'"),
        (changed(with_versions), "version that does not exist"),
        (changed(with_claims), "claims more values than"),
        (changed(in_sparse), "sparse weights"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_is_no_sound_graph_is_refused_in_a_line(content: bytes, says: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ValueError, match=says) as raised:
        scan_graph(content)
    assert "\n" not in str(raised.value)
    assert time.perf_counter() - start < 5


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return small_bundle.make_bundle(tmp_path / "small.glass")


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_no_runtime_reads_a_file_that_nothing_pins(
    bundle: Path, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file lies in the folder that the process runs in, where both runtimes would find it."""
    small_bundle.pin(bundle, "fp32.onnx", changed(in_initializer))
    (tmp_path / "weights.bin").write_bytes(WEIGHTS.tobytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=r"fp32\.onnx is not opened: its weights lie in another file"):
        open_backend(open_bundle(bundle), backend)
    with pytest.raises(BundleError, match="weights lie in another file"):
        write_repository(open_bundle(bundle), tmp_path / "models")
    assert not list((tmp_path / "models").rglob("*.onnx"))


def other_window(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 48


def other_name(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "x"


def other_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def other_classes(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3


def two_outputs(model: onnx.ModelProto) -> None:
    model.graph.output.append(model.graph.output[0])


def fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


@pytest.mark.parametrize("backend", ["ort", "openvino"])
@pytest.mark.parametrize(
    "change", [other_window, other_name, other_type, other_classes, two_outputs, fixed_batch], ids=lambda c: c.__name__
)
def test_a_graph_of_another_shape_is_told_when_it_is_opened(
    bundle: Path, backend: str, change: Callable[[onnx.ModelProto], None]
) -> None:
    small_bundle.pin(bundle, "fp32.onnx", changed(change))
    with pytest.raises(BundleError, match=r"fp32\.onnx: the graph (takes|gives) .*, its manifest means "):
        open_backend(open_bundle(bundle), backend, tested=False)


def test_the_scan_needs_no_onnx() -> None:
    look = "import sys; sys.modules['onnx'] = None; from glassrt.engine import open_bundle; open_bundle().read_graph()"
    subprocess.run([sys.executable, "-c", look], check=True)
