import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import mutated_bundles
import numpy as np
import pytest
import small_bundle
from hunting import hunt

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE, SHIPPED, Bundle, open_bundle
from glassrt.engine.bundles.checks import read_checks
from glassrt.engine.errors import BundleError, UsageError
from glassrt.engine.runtimes.choose import choose
from glassrt.engine.runtimes.open import open_backend


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
        (lambda m: m["classes"][1].update(name="Tissue"), "'tissue' has the name of an area that summary.csv gives"),
        (lambda m: m["classes"][1].update(name="analysed"), "'analysed' has the name of an area"),
        (lambda m: m.update(format=0), r"at `\$.format`"),
        (lambda m: m.update(format="2"), r"Expected `int`, got `str` - at `\$.format`"),
        (lambda m: m.pop("format"), "missing required field `format`"),
        (
            lambda m: m.update(format=3, kind="poem"),
            "format 3 is of a later version of GlassRT, .*: pip install --upgrade",
        ),
        (lambda m: m.update(kind="poem"), r"'poem' at `\$.kind` is no kind of bundle .* \(segmentation\): pip install"),
        (lambda m: m.update(kind=7), r"Expected `str`, got `int` - at `\$.kind`"),
        (lambda m: m.pop("kind"), "missing required field `kind`"),
        (lambda m: m["graphs"][0].update(role="head"), r"at `\$.graphs\[0\].role`"),
        (lambda m: m.update(examples=2 * m["examples"]), "an example is named twice"),
        (lambda m: m.update(verified=[]), "unknown field `verified`"),
        (lambda m: m.update(name="../escaped"), "name '../escaped' must be letters"),
        (lambda m: m.update(name="x" * 65), "64 at most"),
        (lambda m: m.update(name='a"b'), "must be letters"),
        (lambda m: m.update(stride=999), "pixels would be left out"),
        (lambda m: m["graphs"][0].update(file="../fp32.onnx"), "plain name"),
        (lambda m: m["graphs"][0].update(file="other.onnx"), "other.onnx is missing"),
        (lambda m: m["classes"][0].update(color=[0, 0, 256]), r"at `\$.classes\[0\].color\[2\]`"),
        (lambda m: m.update(window=2**45, stride=2**45), r"at `\$.window`"),
        (lambda m: m.update(window=0), r"at `\$.window`"),
        (lambda m: m.update(stride=1), "less than an eighth of window"),
        (lambda m: m.update(output_stride=7), "no multiple of output_stride"),
        (lambda m: m.update(mpp=1e-300), r"at `\$.mpp`"),
        (lambda m: m.update(mpp=1e9), r"at `\$.mpp`"),
        *((lambda m, bad=bad: m.update(scales=[1, bad]), r"at `\$.scales\[1\]`") for bad in (0, -1, 1e-300, 1e9)),
        (lambda m: m.update(scales=[1 + step / 1e7 for step in range(10**6)]), "has .* bytes, and no such file"),
        (lambda m: m.update(scales=[1 + step / 100 for step in range(100)]), r"at `\$.scales`"),
        (lambda m: m.update(graphs=100 * m["graphs"]), r"at `\$.graphs`"),
        (lambda m: m["graphs"].append(m["graphs"][0]), "a graph is named twice"),
        (lambda m: m["graphs"][0].update(file="x" * 200 + ".onnx"), "plain name"),
        (
            lambda m: m.update(window=4096, stride=4096, output_stride=1, classes=named(map(str, range(200)))),
            "too many",
        ),
        (lambda m: m.update(licence="\x1b[2J"), "licence holds characters that cannot be printed"),
        (lambda m: m.update(classes=named(["x", ""])), "printable"),
        (lambda m: m.update(classes=named(["x", "a" * 65])), "in 1 to 64 printable"),
        (lambda m: m.update(classes=named(["x", "a\nb"])), "printable"),
        (lambda m: m.update(classes=named(["x", "\x1b[31m"])), "printable"),
        (lambda m: m.update(classes=named(["x", "\u202egland"])), "printable"),
        (lambda m: m.update(classes=named(["x", " gland"])), "printable"),
        (lambda m: m.update(classes=named(["Gland", "gLAND"])), "named twice"),
        (lambda m: m.update(classes=named(["caf\u00e9", "cafe\u0301"])), "named twice"),
        (lambda m: m.update({"\x1b[2J\n": 1}), r"unknown field `\?\[2J"),
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


def named(names: object) -> list[dict]:
    return [{"name": name, "color": [0, 0, 0]} for name in names]  # type: ignore[attr-defined]


def test_the_background_may_be_named_tissue(copy: Path) -> None:
    edit(copy, lambda manifest: manifest["classes"][0].update(name="tissue"))
    assert open_bundle(copy).manifest.classes[0].name == "tissue"


@pytest.mark.parametrize("name", ["D\u00fcnndarm", "\u817a\u4f53", "[red]gland[/red]", "gland (T1)", "=1+1"])
def test_ordinary_names_of_classes_stay_allowed(copy: Path, name: str) -> None:
    edit(copy, lambda manifest: manifest.update(classes=named(["other", name])))
    assert open_bundle(copy).manifest.classes[1].name == name


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"name": "\x80"}', b'{"verified": ' + b"[" * 100_000, b'{"mpp": 1e999}'],
    ids=lambda content: repr(content[:20]),
)
def test_a_torn_manifest_is_refused(copy: Path, content: bytes) -> None:
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        open_bundle(copy)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        open_bundle(tmp_path / "none.glass")
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(tmp_path)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return small_bundle.make_bundle(tmp_path / "small.glass")


@pytest.mark.parametrize("name", ["manifest.json", "fp32.onnx", "example.npz"])
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "/dev/random", "folder", "loop", "huge"])
def test_only_regular_files_of_a_bundles_size_are_read(small: Path, name: str, kind: str) -> None:
    path = small / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        path.touch()
        os.truncate(path, 1 << 40)
    else:
        path.symlink_to(name if kind == "loop" else kind)
    with pytest.raises(BundleError, match=rf"{name} (is no regular file|cannot be read|has \d+ bytes|is missing)"):
        read_all(open_bundle(small))


def read_all(bundle: Bundle) -> None:
    bundle.read_graph()
    bundle.read_example()


def test_files_may_be_links_to_files(small: Path, tmp_path: Path) -> None:
    """As caches of downloads keep them; their sha256 is asked for all the same."""
    (small / "fp32.onnx").rename(tmp_path / "blob")
    (small / "fp32.onnx").symlink_to(tmp_path / "blob")
    read_all(open_bundle(small))


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "\x00"])
def test_a_name_that_no_file_can_have_is_no_bundle(name: str) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        open_bundle(name)


def header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    stored = io.BytesIO()
    np.lib.format.write_array_header_1_0(stored, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stored.getvalue()


def archive(image: bytes, packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", packing) as file:
        file.writestr("image.npy", image)
        file.writestr("logits.npy", header((1, 2, 4, 4), "<f4") + bytes(128))
    return stored.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (archive(header((1, 32, 32, 3)) + bytes(3072 + (1 << 25))), "holds .* bytes where 3072 are expected"),
        (archive(header((1 << 20, 1 << 25))), r"image is uint8 \[1048576, 33554432\] where"),
        (archive(header((1, 32, 32, 3), "|O") + b"cos\nsystem\n"), "image is object"),
        (archive(header((1, 32, 32, 3)) + bytes(10)), "holds 10 bytes"),
        (archive(header((1, 32, 32, 3)) + bytes(3072), zipfile.ZIP_LZMA), "packed in a way"),
        (archive(b""), "holds no example"),
        (b"PK\x05\x06" + b"\xff" * 18, "holds no example"),
    ],
    ids=["bomb", "claims", "pickle", "short", "packing", "empty", "directory"],
)
def test_an_example_cannot_claim_what_it_is_not(small: Path, content: bytes, says: str) -> None:
    small_bundle.pin(small, "example.npz", content)
    with pytest.raises(BundleError, match=says):
        open_bundle(small).read_example()


@pytest.mark.parametrize("scales", [(), (0.0,), (-1.0,), (float("nan"),), (1e9,), (1.0, 1.0)])
def test_other_scales_are_bounded_as_the_manifests_are(scales: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="scales"):
        open_bundle().replace(scales)


def test_the_identity_is_the_hash_of_the_manifest(copy: Path) -> None:
    bundle = open_bundle(copy)
    assert bundle.sha256 == hashlib.sha256((copy / "manifest.json").read_bytes()).hexdigest()


def test_a_bundle_of_the_first_format_is_read_and_runs(small: Path) -> None:
    today = open_bundle(small)
    edit(small, small_bundle.make_first_format)
    bundle = open_bundle(small)
    assert bundle.manifest == today.manifest
    assert bundle.sha256 != today.sha256
    open_backend(bundle, "ort").close()  # which gives the example


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(examples=[]), "unknown field `examples`"),
        (lambda m: m.update(kind="poem"), r"at `\$.kind`"),
        (lambda m: m["example"].update(file="../x.npz"), r"plain name of an .npz file in the bundle - at `\$.example`"),
        (lambda m: m.update(stride=999), "pixels would be left out"),
        (lambda m: m.update(verified=7), r"at `\$.verified`"),
    ],
)
def test_a_malformed_manifest_of_the_first_format_is_refused_with_the_place(
    small: Path, change: Callable[[dict], object], says: str
) -> None:
    edit(small, small_bundle.make_first_format)
    edit(small, change)
    with pytest.raises(BundleError, match=says):
        open_bundle(small)


def test_checks_within_an_old_manifest_are_not_believed(small: Path) -> None:
    checks = json.loads((small / "checks.json").read_text())
    (small / "checks.json").unlink()
    edit(small, small_bundle.make_first_format)
    edit(small, lambda manifest: manifest.update(verified=checks))
    bundle = open_bundle(small)
    assert read_checks(bundle) == ()
    assert choose(bundle, "ort", "auto") == ("ort", "fp32")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000, b'[{"passed": true}]', b" " * (2 << 20), None]
)
def test_damaged_checks_count_as_none_which_is_told_in_a_line(
    small: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    (small / "checks.json").unlink()
    if content is None:
        os.mkfifo(small / "checks.json")
    else:
        (small / "checks.json").write_bytes(content)
    assert choose(open_bundle(small), "ort", "auto") == ("ort", "fp32")
    assert len(caplog.messages) == 1
    assert "none" in caplog.messages[0]
    assert "\n" not in caplog.messages[0]


def test_mutated_bundles_are_refused_in_a_line_or_give_the_same_twice() -> None:
    """`GLASSRT_MUTATIONS=10000` tries as many; a few of them here."""
    last = int(os.environ.get("GLASSRT_MUTATIONS", "60"))
    told = list(hunt(mutated_bundles.__file__, 0, last))
    assert [each for each in told if each["fault"]] == []
    assert len(told) == last
    assert {outcome[0] for each in told for outcome in each["outcomes"]} == {"(", "B"}  # some run, some are refused


@pytest.mark.parametrize("number", [2, 18, 25, 33])
def test_the_command_tells_of_a_mutated_bundle_in_a_line(
    small: Path, tmp_path: Path, demo_slide: Path, number: int
) -> None:
    mutated_bundles.mutant(small, tmp_path / "mutant.glass", number)
    glassrt = Path(sys.executable).parent / "glassrt"
    command = [glassrt, "score", demo_slide, "--bundle", tmp_path / "mutant.glass", "--out", tmp_path / "out"]
    done = subprocess.run([*command, "--precision", "fp32"], capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("glassrt: ")
    assert not (tmp_path / "out").exists()
