"""What tells how a foreign network is imported: the example that ships, keys that only a TOML has, bounds, and what
lies beside a MONAI bundle's metadata.
"""

import json
import re
from pathlib import Path

import foreign_networks as foreign
import msgspec
import pytest
from command_line import assert_one_line, run
from foreign_networks import MONAI, SEGMENTS, WSINFER
from onnx import helper

from glassrt.engine.bundles.parts import COARSEST_MPP, FINEST_MPP, Resolution
from glassrt.engine.errors import BundleError, UsageError
from glassrt.export.importing import settings as settings_module
from glassrt.export.importing.bundle import import_network
from glassrt.export.importing.settings import Settings, load_settings

EXAMPLE = Path(settings_module.__file__).with_name("example.toml")
CAFFE = {"scale": 1, "mean": [103.9, 116.8, 123.7]}


def test_the_example_shows_every_key_and_is_one_with_all_of_them(tmp_path: Path) -> None:
    least, _ = load_settings(EXAMPLE, {})
    assert least.names == ("stroma", "gland", "fat")
    full = tmp_path / "bundle.toml"
    full.write_text(re.sub(r"^# (?=\w+ = )", "", EXAMPLE.read_text(), flags=re.MULTILINE))
    assert {*msgspec.toml.decode(full.read_bytes())} == {*Settings.__struct_fields__}
    assert load_settings(full, {}).settings.scale == 255
    assert "example.toml" in run("import", "--help").stdout


@pytest.mark.parametrize("side", [4, 60000])
def test_windows_that_no_bundle_has_are_refused_before_any_is_made(side: int, tmp_path: Path) -> None:
    path = foreign.write_graph(tmp_path / "network.onnx", layout="nchw", shape=["N", 3, side, side])
    said = f"takes images of {side} x {side} pixels; windows of bundles have 16 to 4096 along a side"
    with pytest.raises(BundleError, match=said):
        import_network(path, foreign.set_up(tmp_path, **SEGMENTS, **CAFFE), tmp_path / "made.glass")


@pytest.mark.parametrize(("mpp", "fits"), [(FINEST_MPP, True), (COARSEST_MPP, True), (0.01, False), (50, False)])
def test_commands_take_the_resolutions_that_manifests_do(mpp: float, fits: bool, tmp_path: Path) -> None:
    """Those that fit go on to what is wrong beside them."""
    if fits:
        assert msgspec.convert(mpp, Resolution) == mpp
    tries = {
        "export-encoder": ["vit", "--out", tmp_path / "a.glass"],
        "import": [tmp_path / "absent.onnx", "--config", EXAMPLE, "--out", tmp_path / "a.glass"],
    }
    for command, words in tries.items():
        done = run(command, *words, "--mpp", mpp)
        assert done.returncode == 2
        assert ("Invalid value for '--mpp'" in done.stderr) != fits, done.stderr


def test_keys_that_only_a_toml_has_are_said_to_be_such(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(WSINFER))
    more = [helper.make_node("Sigmoid", ["told"], ["share"]), helper.make_node("Mul", ["share", "share"], ["final"])]
    path = foreign.write_graph(tmp_path / "network.onnx", end="", layout="nchw", pooled=True, more=more)
    words = ["import", path, "--out", tmp_path / "made.glass", "--licence", "free", "--config"]
    done = run(*words, config)
    assert done.stderr.count("glassrt: ") == 2  # of which one tells the resolution
    assert "say what they are with `activation`" in done.stderr
    assert "(config.json has no such key: write a bundle.toml with all of it)" in done.stderr
    keys = SEGMENTS | CAFFE | {"kind": "classification"}
    done = run(*words, foreign.write_toml(tmp_path / "bundle.toml", **keys))
    assert_one_line(done, 2, "say what they are with `activation`")
    assert "no such key" not in done.stderr


@pytest.mark.parametrize("name", ["inference.json", "inference.yaml", "inference.yml", "configs/inference.yaml"])
@pytest.mark.parametrize(
    "step", ["ScaleIntensityRanged", "NormalizeIntensityd", "ShiftIntensity", "Lambdad", "TorchVisiond", "Normalize"]
)
def test_pixels_that_monai_changes_elsewhere_are_not_guessed(step: str, name: str, tmp_path: Path) -> None:
    """Its published tumour detector says values of 0 to 255 and takes -1 to 1."""
    (tmp_path / "metadata.json").write_text(json.dumps(MONAI))
    steps = tmp_path / name
    steps.parent.mkdir(exist_ok=True)
    steps.write_bytes(f"preprocessing:\n  - _target_: {step}  # f".encode() + b"\xfcr\n")
    with pytest.raises(UsageError, match=rf"{name.replace('.', '.')} changes pixels by {step.rstrip('d')[:12]}"):
        load_settings(tmp_path / "metadata.json", {"mpp": 0.5, "licence": "free"})
