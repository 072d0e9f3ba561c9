import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import mutated_bundles
import numpy as np
import pytest
import small_bundle
from hunting import hunt

from glassrt.engine.bundles.bundle import SHIPPED, Bundle, named_files, open_bundle, write_bundle
from glassrt.engine.bundles.parts import Seen
from glassrt.engine.errors import BundleError, UsageError
from glassrt.engine.runtimes.choose import choose


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


def test_a_changed_graph_is_refused(copy: Path) -> None:
    graph = copy / open_bundle(copy).manifest.graphs[0].file
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(BundleError, match="sha256 differs"):
        open_bundle(copy).read_graph()


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        open_bundle(tmp_path / "none.glass")
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(tmp_path)


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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mpp": 21.0}, r"`float` <= 20\.0 - at `\$\.mpp`"),
        ({"mpp": float("nan")}, r"`\$\.mpp`"),
        ({"trained": "x" * 5000}, r"`str` of length <= 4096"),
        ({"calibrated": (Seen("x" * (1 << 20), (0, 0, 1, 1)),)}, r"has \d+ bytes, over 1048576"),
    ],
)
def test_a_manifest_that_would_not_open_replaces_no_bundle(small: Path, changes: dict[str, Any], says: str) -> None:
    bundle = open_bundle(small)
    files = {entry.file: bundle.read_pinned(entry) for entry in named_files(bundle.manifest)}
    with pytest.raises(BundleError, match=rf"small\.glass is not written, its manifest .*{says}") as told:
        write_bundle(small, msgspec.structs.replace(bundle.manifest, **changes), files)
    assert "\n" not in str(told.value)
    assert open_bundle(small) == bundle
    assert write_bundle(small, bundle.manifest, files).manifest == bundle.manifest


def test_mutated_bundles_are_refused_in_a_line_or_give_the_same_twice() -> None:
    """`GLASSRT_MUTATIONS=10000` tries as many; a few of them here."""
    last = int(os.environ.get("GLASSRT_MUTATIONS", "40"))
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
