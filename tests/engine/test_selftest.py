"""What every runtime must show when it opens a bundle."""

import hashlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from glassrt.engine import device
from glassrt.engine.backends import choose, open_backend
from glassrt.engine.bundle import DEFAULT_BUNDLE, SHIPPED, Bundle, Check, Example, open_bundle, write_bundle
from glassrt.engine.errors import BackendUnavailable, BundleError

BUNDLE = open_bundle()
GRAPH = BUNDLE.find_graph()


def remake(folder: Path, logits: Callable[[np.ndarray], np.ndarray] | None = None, **changes: object) -> Bundle:
    """The shipped bundle in float32 with another manifest, and its example's logits changed or no example at all."""
    files = {GRAPH.file: BUNDLE.read_graph()}
    example = None
    if logits is not None:
        image, exact = BUNDLE.read_example() or pytest.fail("the shipped bundle has no example")
        stored = io.BytesIO()
        np.savez(stored, image=image, logits=logits(exact))
        files["example.npz"] = stored.getvalue()
        example = Example("example.npz", hashlib.sha256(stored.getvalue()).hexdigest())
    manifest = msgspec.structs.replace(BUNDLE.manifest, graphs=(GRAPH,), verified=(), example=example, **changes)
    return write_bundle(folder / "made.glass", manifest, files)


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.glass")))
@pytest.mark.parametrize(("backend", "precision"), [("ort", "fp32"), ("openvino", "fp32"), ("openvino", "int8")])
def test_shipped_bundles_give_their_examples(name: str, backend: str, precision: str) -> None:
    bundle = open_bundle(name)
    assert bundle.read_example() is not None
    for batch in (1, 3):
        open_backend(bundle, backend, batch, precision=precision).close()


@pytest.mark.parametrize("backend", ["ort", "openvino"])
@pytest.mark.parametrize(
    "change", [lambda exact: exact + 0.01, lambda exact: np.full_like(exact, np.nan)], ids=["shifted", "not a number"]
)
def test_a_runtime_that_computes_something_else_is_refused(
    tmp_path: Path, backend: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    with pytest.raises(BackendUnavailable, match=rf"{backend} .* in fp32 on CPU does not compute what .*made\.glass"):
        open_backend(remake(tmp_path, change), backend)


@pytest.mark.parametrize(
    "changes",
    [
        {"output_stride": 32},
        {"classes": (*BUNDLE.manifest.classes, msgspec.structs.replace(BUNDLE.manifest.classes[0], name="x"))},
    ],
    ids=["output stride", "classes"],
)
def test_a_graph_that_does_not_fit_its_manifest_is_told_at_opening(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(BundleError, match=r"gives logits \[1, 2, 20, 20\], its manifest means"):
        open_backend(remake(tmp_path, **changes), "ort")


def test_an_altered_example_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEFAULT_BUNDLE, tmp_path / "copy.glass"))
    with (folder / "example.npz").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"example\.npz is not the file its manifest names"):
        open_backend(open_bundle(folder), "ort")
    (folder / "example.npz").unlink()
    with pytest.raises(BundleError, match=r"example\.npz is missing"):
        open_bundle(folder)


@pytest.mark.parametrize("backend", ["ort-cuda", "ort-tensorrt"])
def test_a_provider_that_is_not_there_is_not_replaced_in_silence(backend: str) -> None:
    with pytest.raises(BackendUnavailable, match=rf"backend {backend} needs onnxruntime-gpu"):
        open_backend(BUNDLE, backend)


def test_auto_passes_over_what_has_no_device(tmp_path: Path) -> None:
    """TensorRT-RTX is installed and verified in the manifest, but there is nothing it could run on."""
    if device.has_device():
        pytest.skip("there is a CUDA device")
    verified = tuple(Check(name, "GPU", "fp32", True, 1, 0.0, 0.0, 0, 0.0) for name in ("tensorrt-rtx", "ort-cuda"))
    bundle = remake(tmp_path)
    bundle = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, verified=verified), bundle.sha256)
    assert choose(bundle, "auto", "auto") == choose(bundle, "auto", "fp32") == ("ort", "fp32")
    with pytest.raises(BackendUnavailable, match="no CUDA device"):
        open_backend(bundle, "tensorrt-rtx")


def test_the_drivers_version_is_read_where_linux_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: gcc 13.3.0"
    monkeypatch.setattr(device, "DRIVER", tmp_path / "version")
    assert device.driver_version() == ""
    (tmp_path / "version").write_text(told)
    assert device.driver_version() == "580.65.06"
