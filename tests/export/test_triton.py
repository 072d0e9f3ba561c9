"""The model repository, held against Triton's own schema."""

import os
from pathlib import Path

import msgspec
import onnxruntime
import pytest
import small_mil
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from glassrt.engine.bundles.bundle import Bundle, open_bundle, write_bundle
from glassrt.engine.errors import OutputError, UsageError
from glassrt.export.lowering import describe_graph
from glassrt.export.precision import to_float16
from glassrt.export.triton import prepare_repository, write_repository


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped bundle with float16 beside its float32 and int8 for CPUs."""
    shipped = open_bundle()
    files = {graph.file: shipped.read_pinned(graph) for graph in shipped.manifest.graphs}
    files["fp16.onnx"] = to_float16(shipped.read_graph())
    graphs = (*shipped.manifest.graphs, describe_graph("fp16.onnx", files["fp16.onnx"], "fp16", "gpu"))
    manifest = msgspec.structs.replace(shipped.manifest, graphs=graphs, examples=())
    return write_bundle(tmp_path_factory.mktemp("triton") / "made.glass", manifest, files)


def test_triton_reads_the_configuration_and_its_shapes_are_the_graphs(bundle: Bundle, tmp_path: Path) -> None:
    written = write_repository(bundle, tmp_path / "models")
    assert [path.name for path in written] == ["glas-glands-fp32", "glas-glands-fp16"]
    assert sorted((tmp_path / "models").iterdir()) == sorted(written)
    for model in written:
        config = text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
        assert (config.name, config.platform) == (model.name, "onnxruntime_onnx")
        assert config.max_batch_size > 1
        assert config.HasField("dynamic_batching")
        assert config.instance_group[0].count == 1
        session = onnxruntime.InferenceSession(model / "1" / "model.onnx", providers=["CPUExecutionProvider"])
        (image,), (logits,) = session.get_inputs(), session.get_outputs()
        kinds = {"tensor(uint8)": model_config_pb2.TYPE_UINT8, "tensor(float)": model_config_pb2.TYPE_FP32}
        for told, real in ((config.input[0], image), (config.output[0], logits)):
            assert (told.name, [*told.dims], told.data_type) == (real.name, real.shape[1:], kinds[real.type])


def test_a_number_for_each_tile_is_a_list_of_one(tmp_path: Path) -> None:
    """Triton refuses outputs without dimensions: https://docs.nvidia.com/deeplearning/triton-inference-server."""
    (model,) = write_repository(open_bundle(small_mil.make_bundle(tmp_path / "small.glass")), tmp_path / "models")
    config = text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    told = {tensor.name: ([*tensor.dims], tensor.HasField("reshape")) for tensor in config.output}
    assert told == {"features": ([small_mil.FEATURES], False), "scores": ([1], True), "logits": ([1], False)}
    assert list(next(tensor for tensor in config.output if tensor.name == "scores").reshape.shape) == []


def test_a_second_export_replaces_the_first_and_nothing_else(bundle: Bundle, tmp_path: Path) -> None:
    first = write_repository(bundle, tmp_path)[0]
    (first / "1" / "model.onnx").write_bytes(b"stale")
    assert write_repository(bundle, tmp_path)[0].joinpath("1", "model.onnx").stat().st_size > 1e6
    (tmp_path / "theirs" / "glas-glands-fp32").mkdir(parents=True)
    (tmp_path / "theirs" / "glas-glands-fp32" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="was not written by GlassRT; choose another --triton"):
        write_repository(bundle, tmp_path / "theirs")


def test_other_precisions_of_an_earlier_export_are_removed(bundle: Bundle, tmp_path: Path) -> None:
    models, other, kept = tmp_path / "models", tmp_path / "other", tmp_path / "kept"
    for folder in (models, other, kept):
        write_repository(bundle, folder)
    (models / "another-fp16").mkdir()
    (other / "glas-glands-fp16" / "2").mkdir()
    (kept / "glas-glands-fp16" / "config.pbtxt").write_text('name: "mine"')
    exact = msgspec.structs.replace(bundle.manifest, graphs=bundle.manifest.graphs[:1])
    alone = write_bundle(
        tmp_path / "alone.glass", exact, {graph.file: bundle.read_pinned(graph) for graph in exact.graphs}
    )
    for folder in (models, other, kept):
        write_repository(alone, folder)
    assert sorted(os.listdir(models)) == ["another-fp16", "glas-glands-fp32"]
    assert sorted(os.listdir(other)) == sorted(os.listdir(kept)) == ["glas-glands-fp16", "glas-glands-fp32"]


def test_a_repository_that_cannot_be_is_told_before_any_work(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a bundle is no model repository"):
        prepare_repository(bundle.path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="choose another --triton"):
        prepare_repository(tmp_path / "file")
