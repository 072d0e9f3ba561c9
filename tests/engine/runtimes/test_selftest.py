"""What every runtime must show when it opens a bundle."""

import hashlib
import io
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import pytest
from known import image_and_logits, run_windows
from plain_network import PSPNET

from glassrt.engine.bundles.bundle import SHIPPED, Bundle, open_bundle, write_bundle
from glassrt.engine.bundles.checks import Check, record_checks
from glassrt.engine.bundles.parts import Example, RunPrecision
from glassrt.engine.errors import BackendUnavailable, BundleError, UsageError
from glassrt.engine.runtimes import choose as choosing
from glassrt.engine.runtimes import device, flavours, plans, tensorrt
from glassrt.engine.runtimes.choose import choose
from glassrt.engine.runtimes.open import open_backend, open_plan_backend
from glassrt.engine.runtimes.ort import OrtBackend

BUNDLE = open_bundle(PSPNET)
GRAPH = BUNDLE.find_graph()


def remake(folder: Path, logits: Callable[[np.ndarray], np.ndarray] | None = None, **changes: object) -> Bundle:
    """The shipped bundle in float32 with another manifest, and its example's logits changed or no example at all."""
    files = {GRAPH.file: BUNDLE.read_graph()}
    examples: tuple[Example, ...] = ()
    if logits is not None:
        image, exact = image_and_logits(BUNDLE)
        stored = io.BytesIO()
        np.savez(stored, image=image, logits=logits(exact))
        files["example.npz"] = stored.getvalue()
        examples = (Example("example.npz", hashlib.sha256(stored.getvalue()).hexdigest()),)
    manifest = msgspec.structs.replace(BUNDLE.manifest, graphs=(GRAPH,), examples=examples, **changes)
    return write_bundle(folder / "made.glass", manifest, files)


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.glass")))
@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_shipped_bundles_give_their_examples(name: str, backend: str) -> None:
    bundle = open_bundle(name)
    assert bundle.read_example() is not None
    for graph in bundle.manifest.graphs:
        for batch in (1, 3):
            open_backend(bundle, backend, batch, precision=graph.precision).close()


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_a_runtime_that_computes_something_else_is_refused(tmp_path: Path, backend: str) -> None:
    with pytest.raises(
        BackendUnavailable, match=rf"{backend} .* in fp32 on CPU \(.*\) does not compute what .*made\.glass"
    ):
        open_backend(remake(tmp_path, lambda exact: exact + 0.01), backend)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_example_that_no_number_could_miss_is_refused(tmp_path: Path, bad: float) -> None:
    """Against infinity every logit would be close enough."""
    with pytest.raises(BundleError, match=r"example\.npz holds no example .* \(its logits are not all num"):
        open_backend(remake(tmp_path, lambda exact: np.full_like(exact, bad)), "ort")


@pytest.mark.parametrize(
    "changes",
    [
        {"output_stride": 32},
        {"classes": (*BUNDLE.manifest.classes, msgspec.structs.replace(BUNDLE.manifest.classes[0], name="x"))},
    ],
    ids=["output stride", "classes"],
)
def test_a_graph_that_does_not_fit_its_manifest_is_told_at_opening(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(BundleError, match=r"the graph gives float32 \[N, 2, 20, 20\] .* its manifest means"):
        open_backend(remake(tmp_path, **changes), "ort")


def test_an_altered_example_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(PSPNET, tmp_path / "copy.glass"))
    with (folder / "example.npz").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"example\.npz is not the file its manifest names"):
        open_backend(open_bundle(folder), "ort")
    (folder / "example.npz").unlink()
    with pytest.raises(BundleError, match=r"example\.npz is missing"):
        open_bundle(folder)


@pytest.mark.parametrize(("backend", "precision"), [("ort-cuda", "fp32"), ("ort-tensorrt", "fp16")])
def test_a_provider_that_is_not_there_is_not_replaced_in_silence(backend: str, precision: RunPrecision) -> None:
    with pytest.raises(BackendUnavailable, match=rf"backend {backend} needs onnxruntime-gpu"):
        OrtBackend(BUNDLE.read_graph(), 1, 0, precision, backend)


def test_auto_passes_over_what_has_no_device(tmp_path: Path) -> None:
    """TensorRT-RTX is installed and verified in the manifest, but there is nothing it could run on."""
    if device.has_device():
        pytest.skip("there is a CUDA device")
    bundle = remake(tmp_path)
    graphs = (GRAPH, msgspec.structs.replace(GRAPH, precision="fp16", target="gpu"))
    bundle = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, graphs=graphs), bundle.sha256)
    made_on = (bundle.sha256, "tensorrt-rtx", version("tensorrt_rtx"), "GPU", "sm_90")
    record_checks(bundle, [Check(*made_on, "fp16", True, 1, 0.0, 0.0, 0, 0.0)])
    assert choose(bundle, "auto", "auto") == choose(bundle, "auto", "fp32") == ("openvino", "fp32")
    with pytest.raises(BackendUnavailable, match="no CUDA device"):
        open_backend(bundle, "tensorrt-rtx")


@pytest.mark.parametrize(
    ("module", "package"), [("tensorrt", "tensorrt_cu13"), ("runtime_x", "runtime_x"), ("runtime_x", "runtime_x_gpu")]
)
def test_a_runtime_for_gpus_is_found_by_the_package_that_brings_it(
    module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what `verify` measured with it would never count."""
    if choosing.find_version(module) is not None:
        pytest.skip(f"{module} is installed")
    (tmp_path / f"{package}-1.2.dist-info").mkdir()
    (tmp_path / f"{package}-1.2.dist-info" / "METADATA").write_text(f"Name: {package}\nVersion: 1.2\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert choosing.find_version(module) == "1.2"


def test_the_drivers_version_is_read_where_linux_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: gcc 13.3.0"
    monkeypatch.setattr(device, "DRIVER", tmp_path / "version")
    assert device.driver_version() == ""
    (tmp_path / "version").write_text(told)
    assert device.driver_version() == "580.65.06"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda image, logits: b"no archive",
        lambda image, logits: stored(other=image, logits=logits),
        lambda image, logits: stored(image=np.array([None]), logits=logits),
        lambda image, logits: stored(image=image[:, :100], logits=logits),
        lambda image, logits: stored(image=image.astype(np.float32), logits=logits),
        lambda image, logits: stored(image=image, logits=logits[:, :0]),
    ],
    ids=["no archive", "other names", "objects", "another size", "floats", "no logits"],
)
def test_an_example_that_is_none_is_told(tmp_path: Path, spoil: Callable[[np.ndarray, np.ndarray], bytes]) -> None:
    content = spoil(*image_and_logits(BUNDLE))
    example = Example("example.npz", hashlib.sha256(content).hexdigest())
    manifest = msgspec.structs.replace(BUNDLE.manifest, graphs=(GRAPH,), examples=(example,))
    files = {GRAPH.file: BUNDLE.read_graph(), "example.npz": content}
    with pytest.raises(BundleError, match=r"example\.npz (holds no example|has \d+ bytes)"):
        open_backend(write_bundle(tmp_path / "made.glass", manifest, files), "ort")


def stored(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("backend", ["ort", "openvino"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 320, 320, 3), np.float32), ((1, 320, 320, 3), np.uint8), ((2, 320, 3, 320), np.uint8)],
    ids=["floats", "another batch", "another order"],
)
def test_windows_that_a_graph_does_not_take_are_refused(backend: str, shape: tuple[int, ...], dtype: type) -> None:
    """The bytes would fit, and the logits would be wrong."""
    opened = open_backend(BUNDLE, backend, batch=2)
    with pytest.raises(UsageError, match=r"image: expected uint8 \[2, 320, 320, 3\], got"):
        run_windows(opened, np.zeros(shape, dtype))
    opened.close()


def test_what_the_bundle_has_no_graph_for_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine where everything runs, int8 for CPUs alone still goes to a CPU."""
    monkeypatch.setattr(choosing, "can_run", lambda name, precision: True)
    assert choose(BUNDLE, "auto", "int8") == ("openvino", "int8")
    assert choose(BUNDLE, "auto", "fp32") == ("tensorrt", "fp32")
    with pytest.raises(BundleError, match="has no fp16 graph for gpu"):
        choose(BUNDLE, "auto", "fp16")
    with pytest.raises(UsageError, match="precision fp32 does not run through ort-tensorrt; it has int8, fp16"):
        choose(BUNDLE, "ort-tensorrt", "fp32")


class Stub:
    """What stands in for a plan that runs, as nothing here can run one: OpenVINO under TensorRT's name."""

    opened: ClassVar[list["Stub"]] = []

    def __init__(self, plan: plans.Plan) -> None:
        self.plan, self.closed = plan, False
        self.name, self.device, self.isa, self.version = "tensorrt-rtx", "GPU", "sm_90", "1"
        self.precision = plan.key.precision
        self.batch = plan.key.batch
        self.backend = open_backend(BUNDLE, "openvino", self.batch)
        self.opened.append(self)

    def infer(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        factor = 1.0 if self.plan.built else 2.0
        return {name: factor * logits for name, logits in self.backend.infer(inputs).items()}

    def close(self) -> None:
        self.closed = True


def test_a_kept_plan_that_misses_the_example_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GLASSRT_CACHE", str(tmp_path))
    monkeypatch.setattr(flavours, "require_device", lambda flavour: None)
    monkeypatch.setattr(tensorrt, "TensorRtBackend", Stub)
    monkeypatch.setattr(Stub, "opened", [])
    first = open_plan_backend(BUNDLE, "tensorrt-rtx", 1, "fp32")
    again = open_plan_backend(BUNDLE, "tensorrt-rtx", 1, "fp32")
    assert first.plan.built
    assert again.plan.built
    assert [stub.closed for stub in Stub.opened] == [False, True, False]
    assert "does not compute what" in caplog.records[-1].getMessage()
    monkeypatch.setattr(Stub, "infer", lambda self, inputs: {"logits": np.full((1, 2, 20, 20), np.nan)})
    with pytest.raises(BackendUnavailable, match="does not compute what"):
        open_plan_backend(BUNDLE, "tensorrt-rtx", 1, "fp32")


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["ort-cuda", "tensorrt", "tensorrt-rtx"])
def test_the_example_comes_out_of_a_gpu(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not choosing.can_run(backend, "fp32"):
        pytest.skip(f"{backend} does not run here")
    monkeypatch.setenv("GLASSRT_CACHE", str(tmp_path))
    for batch in (1, 8):
        opened = open_backend(BUNDLE, backend, batch)
        assert (opened.name, opened.batch) == (backend, batch)
        found = device.find_device()
        assert (opened.device, opened.isa) == (found.name, found.isa)
        opened.close()
