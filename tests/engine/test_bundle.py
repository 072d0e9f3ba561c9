import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from glassrt.engine.bundle import DEFAULT_BUNDLE, SHIPPED, open_bundle
from glassrt.engine.errors import BundleError


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEFAULT_BUNDLE, tmp_path / "copy.glass"))


def edit(bundle: Path, change: Callable[[dict], object]) -> None:
    manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes())
    change(manifest)
    (bundle / "manifest.json").write_bytes(msgspec.json.encode(manifest))


def test_the_shipped_bundle_opens_and_its_graph_matches() -> None:
    bundle = open_bundle()
    assert bundle.manifest.classes[1].name == "gland"
    assert "Research only" in bundle.manifest.licence
    assert len(bundle.read_graph()) < 20e6


def test_shipped_bundles_open_by_name() -> None:
    names = sorted(path.stem for path in SHIPPED.glob("*.glass"))
    assert "glas-glands" in names
    for name in names:
        assert open_bundle(name).manifest.name == name
    with pytest.raises(BundleError, match=f"or one of {', '.join(names)}"):
        open_bundle("no-such-bundle")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(colour=1), "unknown field `colour`"),
        (lambda m: m["graphs"][0].update(sha=1), r"unknown field `sha` - at `\$.graphs\[0\]`"),
        (lambda m: m.update(mpp="0.5"), r"Expected `float`, got `str` - at `\$.mpp`"),
        (lambda m: m.update(mpp=-1), r"at `\$.mpp`"),
        (lambda m: m.pop("scales"), "missing required field `scales`"),
        (lambda m: m["classes"][0].update(name="gland"), "named twice"),
        (lambda m: m.update(format=2), r"at `\$.format`"),
        (lambda m: m.update(kind="poem"), r"at `\$.kind`"),
        (lambda m: m.update(name="../escaped"), "name '../escaped' must be letters"),
        (lambda m: m.update(name="x" * 65), "64 at most"),
        (lambda m: m.update(name='a"b'), "must be letters"),
        (lambda m: m.update(stride=999), "pixels would be left out"),
        (lambda m: m["graphs"][0].update(file="../fp32.onnx"), "plain name"),
        (lambda m: m["graphs"][0].update(file="other.onnx"), "other.onnx is missing"),
        (lambda m: m["classes"][0].update(color=[0, 0, 256]), r"at `\$.classes\[0\].color\[2\]`"),
    ],
)
def test_a_malformed_manifest_is_refused_with_the_place(
    copy: Path, change: Callable[[dict], object], says: str
) -> None:
    edit(copy, change)
    with pytest.raises(BundleError, match=says):
        open_bundle(copy)


def test_a_changed_graph_is_refused(copy: Path) -> None:
    graph = copy / open_bundle(copy).manifest.graphs[0].file
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(BundleError, match="sha256 differs"):
        open_bundle(copy).read_graph()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_torn_manifest_is_refused(copy: Path, content: bytes) -> None:
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        open_bundle(copy)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        open_bundle(tmp_path / "none.glass")
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(tmp_path)
