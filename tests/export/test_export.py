"""From a run folder to a bundle that computes what torch computes."""

import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from known import image_and_logits, run_windows
from onnx import numpy_helper
from plain_network import PSPNET
from torch import Tensor, nn

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE, SHIPPED, Bundle, open_bundle
from glassrt.engine.bundles.parts import Graph, Precision
from glassrt.engine.bundles.tensors import Signature, TensorSpec
from glassrt.engine.errors import BundleError, TrainingError, UsageError
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.readers import open_slide
from glassrt.export import bundle as exporting
from glassrt.export import lowering
from glassrt.export.bundle import export_run, open_network
from glassrt.export.calibration import collect_calibration, collect_windows
from glassrt.export.lowering import describe_graph, lower_precisions, refuse_lossy
from glassrt.export.to_onnx import export_graph
from glassrt.training import checkpoint
from glassrt.training.commands.options import CONFIGS
from glassrt.training.config import load_config
from glassrt.training.methods.segment import SegmentConfig
from glassrt.training.networks.pspnet import PSPNet

CONFIG = load_config(CONFIGS / "segment.toml", SegmentConfig)

SIGNATURE = Signature(
    (TensorSpec("image", "uint8", (None, 32, 32, 3)),), (TensorSpec("logits", "float32", (None, 2, 32, 32)),)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a network of random weights whose batch norms have seen data."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    network = PSPNet(2)
    with torch.no_grad():
        for _ in range(3):
            network(255 * torch.rand(2, 3, 128, 128))
    metadata = {"method": "segment", "labels": "masks", "config": msgspec.json.encode(CONFIG).decode()}
    checkpoint.save(folder / "model.safetensors", network.state_dict(), metadata)
    return folder


@pytest.fixture(scope="module")
def fresh(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """That run as a bundle."""
    return export_run(run, tmp_path_factory.mktemp("bundle") / "fresh.glass", "fresh", ("fp32", "fp16"))


def test_the_graph_computes_what_torch_does_through_every_backend(run: Path, fresh: Bundle, demo_slide: Path) -> None:
    with open_slide(demo_slide) as slide:
        tissue = GridReader(slide, 0.62).read(300, 900, 320, 320)
    noise = np.random.default_rng(0).integers(0, 256, tissue.shape, dtype=np.uint8)
    windows = np.stack([tissue, noise, np.zeros_like(tissue), np.full_like(tissue, 255)])
    network = PSPNet(2)
    network.load_state_dict(checkpoint.load(run / "model.safetensors")[0])
    with torch.inference_mode():
        expected = network.eval()(torch.from_numpy(windows).permute(0, 3, 1, 2).float()).numpy()
    for name in ("ort", "openvino"):
        for batch in (1, 4):
            backend = open_backend(fresh, name, batch)
            logits = np.concatenate(
                [run_windows(backend, windows[start : start + batch]).copy() for start in range(0, 4, batch)]
            )
            assert logits.shape == (4, 2, 20, 20)
            assert np.abs(logits - expected).max() < 1e-4


def test_the_graph_is_plain(fresh: Bundle) -> None:
    model = onnx.load_from_string(fresh.read_graph())
    operations = {node.op_type for node in model.graph.node}
    assert not operations & {"BatchNormalization", "Dropout", "Shape", "Gather", "Resize", "Identity"}
    assert model.graph.node[0].op_type == "Cast"  # else TensorRT refuses the bytes
    layers = {node.name for node in model.graph.node if node.op_type == "Conv"}
    assert {"encoder._conv_stem", "pyramid.fuse.0", "classify.1"} <= layers
    (image,) = model.graph.input
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dimensions = image.type.tensor_type.shape.dim
    assert dimensions[0].dim_param == "batch"
    assert [dimension.dim_value for dimension in dimensions][1:] == [320, 320, 3]


def test_an_unfinished_run_cannot_be_exported_and_the_older_bundle_stays(fresh: Bundle, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="train the run to its end first"):
        export_run(tmp_path, fresh.path, "fresh")
    assert fresh.read_graph()


def test_a_checkpoint_of_another_network_is_refused(run: Path, tmp_path: Path) -> None:
    tensors, metadata = checkpoint.load(run / "model.safetensors")
    tensors.pop("classify.1.bias")
    checkpoint.save(tmp_path / "model.safetensors", tensors, metadata)
    with pytest.raises(TrainingError, match=r"another network.*classify\.1\.bias"):
        export_run(tmp_path, tmp_path / "fresh.glass", "fresh")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(TrainingError, match="not a readable safetensors file"):
        export_run(tmp_path, tmp_path / "fresh.glass", "fresh")


def test_the_command_names_its_folder(run: Path, tmp_path: Path) -> None:
    glassrt = str(Path(sys.executable).with_name("glassrt"))
    done = subprocess.run(
        [glassrt, "export", run, "--out", tmp_path / "x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "NAME.glass" in done.stderr


def test_the_shipped_bundle_is_small() -> None:
    assert sum(path.stat().st_size for path in DEFAULT_BUNDLE.iterdir()) <= 26e6


@pytest.mark.parametrize("left_out", ["labels", "config"])
def test_a_run_of_another_version_is_refused(run: Path, tmp_path: Path, left_out: str) -> None:
    tensors, metadata = checkpoint.load(run / "model.safetensors")
    checkpoint.save(tmp_path / "model.safetensors", tensors, {k: v for k, v in metadata.items() if k != left_out})
    with pytest.raises(TrainingError, match=r"model\.safetensors was written by another version"):
        export_run(tmp_path, tmp_path / "x.glass", "x")
    assert not (tmp_path / "x.glass").exists()


class Refused(nn.Module):
    """An operation that ONNX has none for."""

    def forward(self, x: Tensor) -> Tensor:
        planes = x.mean(1)
        return torch.linalg.eigvals(planes).real[:, None, None] * x


class Undecided(nn.Module):
    """What it computes depends on the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Silent(nn.Module):
    """It stops without a word."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            raise NotImplementedError
        return x


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Refused(), "head.odd is refused: aten.linalg_eig"),
        (Undecided(), r"head.odd \(Undecided\) is refused: "),
        (Silent(), "is refused: NotImplementedError"),
    ],
)
def test_a_module_that_the_exporter_refuses_is_named(
    module: nn.Module, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    head = nn.Sequential(OrderedDict(mix=nn.Conv2d(3, 2, 1), odd=module))
    with pytest.raises(BundleError, match=says) as raised:
        export_graph(nn.Sequential(OrderedDict(head=head)), SIGNATURE)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_a_convolution_that_is_used_twice_is_named() -> None:
    shared = nn.Conv2d(3, 3, 1)
    with pytest.raises(BundleError, match="the network uses 2 twice"):
        export_graph(nn.Sequential(shared, nn.ReLU(), shared), SIGNATURE)


@pytest.fixture
def exported(fresh: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares a test the export of that run's graph again."""
    monkeypatch.setattr(exporting, "export_graph", lambda network, signature: fresh.read_graph())


@pytest.mark.usefixtures("exported")
def test_a_graph_that_is_off_is_not_exported(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = exporting.infer_exactly
    monkeypatch.setattr(
        exporting, "infer_exactly", lambda *given: {name: values + 0.1 for name, values in exact(*given).items()}
    )
    with pytest.raises(BundleError, match=r"the exported graph is off by 0\.1 from what torch computes"):
        export_run(run, tmp_path / "x.glass", "x")
    assert not (tmp_path / "x.glass").exists()


def test_graphs_say_nothing_of_the_machine_that_made_them(fresh: Bundle) -> None:
    for shipped in (fresh, *(open_bundle(path.stem) for path in SHIPPED.glob("*.glass"))):
        for graph in shipped.manifest.graphs:
            content = shipped.read_pinned(graph)
            assert not [note for note in (b"stack_trace", b"site-packages", b"pspnet.py") if note in content]


@pytest.mark.usefixtures("exported")
def test_an_export_holds_an_example_of_its_own(run: Path, fresh: Bundle, demo_slide: Path, tmp_path: Path) -> None:
    """Painted without real tissue, else a real window; in either case with the logits that torch gives."""
    painted = image_and_logits(fresh)
    real = image_and_logits(export_run(run, tmp_path / "b.glass", "b", calibration=demo_slide.parent))
    assert not np.array_equal(painted[0], real[0])
    infer = open_network(run)
    for image, logits in (painted, real):
        assert image.shape == (1, 320, 320, 3)
        assert len(np.unique(image)) > 100
        assert np.array_equal(logits, infer({"image": image})["logits"])


def test_int8_without_calibration_is_refused_before_any_work(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int8 needs --calibration"):
        export_run(run, tmp_path / "x.glass", "x", ("int8",))
    assert not (tmp_path / "x.glass").exists()


@pytest.mark.usefixtures("exported")
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_graph_that_loses_too_much_is_not_exported(
    run: Path, demo_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    """Nothing is written, and the line says how much."""

    def spoil(exact: bytes, *others: object) -> Iterator[tuple[Graph, bytes]]:
        model = onnx.load_from_string(exact)
        bias = next(each for each in model.graph.initializer if each.name.endswith("classify.1.bias"))
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32([9, -9]), bias.name))
        content = model.SerializeToString()
        yield describe_graph("lossy.onnx", content, precision, "gpu"), content

    monkeypatch.setattr(lowering, "lower_precisions", spoil)
    with pytest.raises(BundleError, match=rf"{precision} for gpu is not exported: \d+\.\d\d% of the places"):
        export_run(run, tmp_path / "x.glass", "x", (precision,), demo_slide.parent)
    assert not (tmp_path / "x.glass").exists()


@pytest.mark.slow
def test_a_trained_network_passes_in_every_precision(data: Path, tmp_path: Path) -> None:
    """With fewer windows to calibrate on than an export takes, which loses more."""
    for image in (data / "glas").glob("train_*.bmp"):
        if "anno" not in image.name:
            (tmp_path / image.name).symlink_to(image)
    shipped = open_bundle(PSPNET)
    tissue = collect_calibration(tmp_path, shipped.manifest, wanted=20)
    made = list(lower_precisions(shipped.read_graph(), ("fp16", "int8"), tissue, shipped.manifest))
    for entry, content in made:
        refuse_lossy(shipped.read_graph(), entry, content, tissue.measured, shipped.manifest)
    assert [entry.file for entry, _ in made] == ["fp16.onnx", "int8_cpu.onnx", "int8_gpu.onnx"]


@pytest.mark.usefixtures("exported")
def test_what_calibrated_stands_in_the_manifest_and_is_kept_from_verification(
    run: Path, demo_slide: Path, tmp_path: Path
) -> None:
    made = export_run(run, tmp_path / "b.glass", "b", calibration=demo_slide.parent)
    assert made.manifest.calibrated == collect_calibration(demo_slide.parent, made.manifest).seen
    told: list[str] = []
    unseen = collect_windows(demo_slide.parent, made.manifest, told=told.append)
    assert told == [
        f"{demo_slide.parent}: verified on parts of files that the bundle was calibrated on, for want of others"
    ]
    example, _ = image_and_logits(made)
    assert not any(np.array_equal(example[0], window) for window in unseen["image"])
