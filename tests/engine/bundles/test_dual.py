"""What the manifest of a dual-input bundle may say, and what it means."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_bundle import read_manifest, write_manifest
from small_dual import make_dual

from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.errors import BundleError
from glassrt.engine.geometry.plan import InputSpec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_dual(tmp_path / "small.glass", maps=True)


def feature(**changes: object) -> list[dict[str, object]]:
    return [{"name": "map", "shape": [4, 4, 4], **changes}]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m["graphs"].pop(0), "no fp32 graph of the role 'context'"),
        (lambda m: m["graphs"].pop(1), "no fp32 graph of the role 'fine'"),
        (lambda m: m["graphs"][0].update(precision="int8"), "no fp32 graph of the role 'context'"),
        (
            lambda m: m["graphs"][0].update(role="main"),
            "is of the role 'main', and a bundle of the kind dual has context",
        ),
        (lambda m: m["examples"][0].update(role="main"), "context_example.npz is of the role 'main'"),
        (lambda m: m["graphs"][0].update(role="head"), r"at `\$.graphs\[0\].role`"),
        (lambda m: m.update(context_factor=1.0), r"> 1.* - at `\$.context_factor`"),
        (lambda m: m.update(context_factor=64.5), r"<= 64.* - at `\$.context_factor`"),
        (lambda m: m.update(context_factor=1.01), "context_factor 1.01 is too small for windows of 32 pixels to share"),
        (lambda m: m.pop("context_factor"), "missing required field `context_factor`"),
        (lambda m: m.update(context_anchor="corner"), r"'corner' - at `\$.context_anchor`"),
        (lambda m: m.update(features=[]), r"at `\$.features`"),
        (lambda m: m.update(features=17 * feature()), r"at `\$.features`"),
        (lambda m: m.update(features=2 * feature()), "a feature is named twice"),
        *(
            (lambda m, name=name: m.update(features=feature(name=name)), f"feature {name!r} must be letters")
            for name in ("fine", "context", "place", "logits", "", "a b", "../x", "x" * 65)
        ),
        (lambda m: m.update(features=feature(shape=[])), r"at `\$.features\[0\].shape`"),
        (lambda m: m.update(features=feature(shape=[1, 1, 1, 1])), r"at `\$.features\[0\].shape`"),
        (lambda m: m.update(features=feature(shape=[4, 0])), r"at `\$.features\[0\].shape\[1\]`"),
        (lambda m: m.update(features=feature(shape=[1 << 17])), r"at `\$.features\[0\].shape\[0\]`"),
        (lambda m: m.update(features=feature(shape=[1 << 16, 1 << 10])), "features are too many"),
        (lambda m: m.update(features=feature(mean=1)), r"unknown field `mean` - at `\$.features\[0\]`"),
        (lambda m: m.update(kind="segmentation"), "unknown field `"),
        (lambda m: m.update(stride=999), "pixels would be left out"),
    ],
)
def test_a_malformed_manifest_is_refused_in_one_line(folder: Path, change: Callable[[dict], object], says: str) -> None:
    manifest = read_manifest(folder)
    change(manifest)
    write_manifest(folder, manifest)
    with pytest.raises(BundleError, match=says) as refused:
        open_bundle(folder)
    assert "\n" not in str(refused.value)


def test_windows_around_their_middles_need_no_lattice(folder: Path) -> None:
    write_manifest(folder, read_manifest(folder) | {"context_factor": 1.01, "context_anchor": "centre"})
    assert open_bundle(folder).manifest.inputs[1] == InputSpec("context", 32, 1.01, "centre", True)


def test_its_networks_and_what_they_are_together(folder: Path) -> None:
    kind = open_bundle(folder).manifest
    assert kind.kind == "dual"
    assert [*kind.networks] == ["context", "fine"]
    assert kind.first_role == "fine"
    told = {
        role: ([f"{spec.name} {spec}" for spec in network.inputs], [f"{spec.name} {spec}" for spec in network.outputs])
        for role, network in [*kind.networks.items(), ("whole", kind.whole)]
    }
    pixels, logits = "uint8 [N, 32, 32, 3]", ["logits float32 [N, 2, 4, 4]"]
    feature, place = "map float32 [N, 4, 4, 4]", "place float32 [N, 2]"
    assert told == {
        "context": ([f"context {pixels}"], [feature]),
        "fine": ([f"fine {pixels}", feature, place], logits),
        "whole": ([f"fine {pixels}", f"context {pixels}", place], logits),
    }
    assert kind.inputs == (InputSpec("fine", 32), InputSpec("context", 32, 4.0, "tile", True))


def test_its_example_window_is_the_fine_one_and_all_files_are_checked(folder: Path) -> None:
    bundle = open_bundle(folder)
    bundle.check_files()
    known = bundle.read_example("fine")
    assert known is not None
    assert known.inputs.keys() == {"fine", "map", "place"}
    assert np.array_equal(bundle.example_window, known.inputs["fine"][0])
    with pytest.raises(BundleError, match="no int8 graph of its fine network for cpu; it holds fp32 for any"):
        bundle.find_graph("int8")


def test_only_logits_tell_classes(folder: Path) -> None:
    kind = open_bundle(folder).manifest
    logits = np.random.default_rng(0).normal(size=(3, 2, 4, 4))
    assert np.array_equal(kind.classify({"logits": logits}), logits.argmax(1))
    assert kind.classify({"map": logits}) is None


def test_a_graph_that_gives_other_features_is_refused(folder: Path) -> None:
    manifest = read_manifest(folder)
    manifest["features"] = feature(shape=[4, 4, 5])
    write_manifest(folder, manifest)
    with pytest.raises(BundleError, match=r"gives float32 \[N, 4, 4, 4\] named 'drawn', its manifest means map"):
        open_bundle(folder).read_graph(role="context")
