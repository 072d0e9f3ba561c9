"""What a manifest may say, in today's format and in the first."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import small_bundle

from glassrt.engine.bundles.bundle import named_files, open_bundle, write_bundle
from glassrt.engine.bundles.checks import read_checks
from glassrt.engine.bundles.parts import SlideScoring
from glassrt.engine.errors import BundleError
from glassrt.engine.runtimes.choose import choose
from glassrt.engine.runtimes.open import open_backend


def edit(bundle: Path, change: Callable[[dict], object]) -> None:
    manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes())
    change(manifest)
    (bundle / "manifest.json").write_bytes(msgspec.json.encode(manifest))


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
        (lambda m: (m.update(format=3), m.pop("kind")), "format 3 is of a later version of GlassRT"),
        (
            lambda m: m.update(kind="poem"),
            r"'poem' at `\$.kind` is no kind of bundle .* \(segmentation, dual, classification, mil, encoder\): pip",
        ),
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
        (lambda m: ask(m, of="lumen"), r"`\$.slide_scores.of` names 'lumen', .* expected one of gland"),
        (lambda m: ask(m, of="other"), r"`\$.slide_scores.of` names 'other', which is no class but the background"),
        (lambda m: ask(m, of=1), r"Expected `str`, got `int` - at `\$.slide_scores.of`"),
        *((lambda m, bad=bad: ask(m, eta=bad), r"at `\$.slide_scores.eta`") for bad in (0, -1, 100.5, "5", None)),
        (lambda m: ask(m, top=5), r"unknown field `top` - at `\$.slide_scores`"),
        (lambda m: m.update(slide_scores={"of": "gland"}), r"missing required field `eta` - at `\$.slide_scores`"),
        (lambda m: m.update(overlay="hot"), r"Invalid enum value 'hot' - at `\$.overlay`"),
    ],
)
def test_a_malformed_manifest_is_refused_with_the_place(
    copy: Path, change: Callable[[dict], object], says: str
) -> None:
    edit(copy, change)
    with pytest.raises(BundleError, match=says):
        open_bundle(copy)


def ask(manifest: dict, **more: object) -> None:
    manifest["slide_scores"] = {"of": "gland", "eta": 5, **more}


@pytest.mark.parametrize("name", ["glas-glands", "glas-glands-weak"])
def test_what_a_bundle_does_not_ask_for_is_not_written(tmp_path: Path, name: str) -> None:
    """So that a bundle that is copied keeps its identity, under which it was verified."""
    shipped = open_bundle(name)
    files = {entry.file: shipped.read_pinned(entry) for entry in named_files(shipped.manifest)}
    assert write_bundle(tmp_path / "again.glass", shipped.manifest, files).sha256 == shipped.sha256


def test_what_a_bundle_asks_for_is_written_and_read(small: Path, tmp_path: Path) -> None:
    edit(small, lambda manifest: (ask(manifest), manifest.update(overlay="heat")))
    bundle = open_bundle(small)
    assert (bundle.manifest.slide_scores, bundle.manifest.overlay) == (SlideScoring("gland", 5.0), "heat")
    files = {entry.file: bundle.read_pinned(entry) for entry in named_files(bundle.manifest)}
    assert write_bundle(tmp_path / "again.glass", bundle.manifest, files).manifest == bundle.manifest


def test_the_class_that_is_suspected_is_the_one_scored_or_the_first(small: Path) -> None:
    edit(small, lambda manifest: manifest.update(classes=named(["other", "benign", "malign"])))
    assert open_bundle(small).manifest.suspected == 1
    edit(small, lambda manifest: ask(manifest, of="malign"))
    assert open_bundle(small).manifest.suspected == 2


def named(names: object) -> list[dict]:
    return [{"name": name, "color": [0, 0, 0]} for name in names]  # type: ignore[attr-defined]


def test_the_background_may_be_named_tissue(copy: Path) -> None:
    edit(copy, lambda manifest: manifest["classes"][0].update(name="tissue"))
    assert open_bundle(copy).manifest.classes[0].name == "tissue"


@pytest.mark.parametrize("name", ["D\u00fcnndarm", "\u817a\u4f53", "[red]gland[/red]", "gland (T1)", "=1+1"])
def test_ordinary_names_of_classes_stay_allowed(copy: Path, name: str) -> None:
    edit(copy, lambda manifest: manifest.update(classes=named(["other", name]), contour_of=name))
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
