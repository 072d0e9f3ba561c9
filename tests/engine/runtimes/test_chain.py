"""A bundle of two networks, opened as one backend or a network at a time."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from small_bundle import pin, read_manifest, write_manifest
from small_dual import make_dual, make_graphs

from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.errors import BackendUnavailable, BundleError
from glassrt.engine.runtimes.chain import Chain
from glassrt.engine.runtimes.choose import choose, running
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.runtimes.selftest import check_backend


@pytest.fixture(params=[False, True], ids=["vectors", "maps"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_dual(tmp_path / "small.glass", maps=request.param)


@pytest.mark.parametrize("name", ["ort", "openvino"])
@pytest.mark.parametrize("batch", [1, 3])
def test_it_is_a_backend_that_gives_what_its_networks_give(folder: Path, name: str, batch: int) -> None:
    bundle = open_bundle(folder)
    chain: Backend = open_backend(bundle, name, batch)
    assert isinstance(chain, Chain)
    assert (chain.name, chain.batch, chain.precision, chain.device) == (name, batch, "fp32", "CPU")
    whole = bundle.manifest.whole
    assert [(spec.name, spec.dtype, spec.shape) for spec in chain.inputs] == [
        (spec.name, spec.dtype, spec.sized(batch)) for spec in whole.inputs
    ]
    assert [spec.shape for spec in chain.outputs] == [spec.sized(batch) for spec in whole.outputs]
    around, near = bundle.read_example("context"), bundle.read_example("fine")
    assert around is not None
    assert near is not None
    given = {**around.inputs, **near.inputs}
    found = chain.infer({spec.name: np.repeat(given[spec.name], batch, axis=0) for spec in whole.inputs})
    assert np.abs(found["logits"] - near.outputs["logits"]).max() < 1e-5
    check_backend(bundle, chain)
    chain.close()


def test_a_role_opens_one_network(folder: Path) -> None:
    bundle = open_bundle(folder)
    for role in ("context", "fine"):
        backend = open_backend(bundle, "ort", role=role)  # type: ignore[arg-type]
        assert not isinstance(backend, Chain)
        assert {spec.name for spec in backend.inputs} == {spec.name for spec in bundle.manifest.networks[role].inputs}  # type: ignore[index]
        backend.close()


@pytest.mark.parametrize("name", ["ort", "openvino"])
@pytest.mark.parametrize("role", ["context", "fine"])
def test_each_network_has_to_give_its_example(folder: Path, name: str, role: str) -> None:
    file = f"{role}_example.npz"
    with np.load(folder / file) as stored:
        values = dict(stored)
    last = [*values][-1]
    values[last] = values[last] + 1
    changed = io.BytesIO()
    np.savez_compressed(changed, **values)
    pin(folder, file, changed.getvalue())
    with pytest.raises(BackendUnavailable, match="its stored example is off by 1"):
        open_backend(open_bundle(folder), name)
    open_backend(open_bundle(folder), name, tested=False).close()


def test_a_precision_is_offered_where_both_networks_have_it(folder: Path) -> None:
    manifest = read_manifest(folder)
    graph = {**manifest["graphs"][1], "file": "fine_int8.onnx", "precision": "int8", "target": "cpu", "weight_bits": 7}
    (folder / "fine_int8.onnx").write_bytes((folder / "fine_fp32.onnx").read_bytes())
    manifest["graphs"].append(graph)
    write_manifest(folder, manifest)
    bundle = open_bundle(folder)
    assert not [each for each in running(bundle) if each[1] == "int8"]
    with pytest.raises(BundleError, match="no int8 graph of its context network for cpu; it holds fp32 for any"):
        choose(bundle, "ort", "int8")
    assert choose(bundle, "ort", "auto") == ("ort", "fp32")


def test_the_first_is_closed_where_the_second_does_not_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = make_graphs(False)["context"]
    (folder / "fine_fp32.onnx").write_bytes(content)
    manifest = read_manifest(folder)
    manifest["graphs"][1]["sha256"] = hashlib.sha256(content).hexdigest()
    write_manifest(folder, manifest)
    from glassrt.engine.runtimes.ort import OrtBackend

    closed = []
    monkeypatch.setattr(OrtBackend, "close", lambda self: closed.append(self.inputs[0].name))
    with pytest.raises(BundleError, match="the graph takes"):
        open_backend(open_bundle(folder), "ort")
    assert closed == ["context"]
