"""Foreign networks that make no bundle, settings that do not fit, and what others publish beside their networks: what
is wrong is one line, and nothing is written.
"""

import json
from pathlib import Path
from typing import Any

import foreign_networks as foreign
import onnx
import pytest
from command_line import assert_one_line, run
from foreign_networks import MONAI, SEGMENTS, WINDOW, WSINFER
from onnx import TensorProto, helper

from glassrt.engine.bundles.kinds.classification import Classification
from glassrt.engine.errors import BundleError, GlassError, UsageError
from glassrt.export.importing import surgery
from glassrt.export.importing.bundle import import_network
from glassrt.export.importing.settings import load_settings

CAFFE = {"scale": 1, "mean": [103.9, 116.8, 123.7]}
TELLS = SEGMENTS | CAFFE
NODE = helper.make_node
MEAN_OF_ALL = [NODE("ReduceMean", ["told"], ["mean"], axes=[0]), NODE("Add", ["told", "mean"], ["final"])]


def try_import(folder: Path, settings: dict[str, Any], output: str | None = None, **graph: Any) -> None:
    """Import a graph with settings into a folder that is then empty of bundles, whatever is raised."""
    path = foreign.write_graph(folder / "network.onnx", **graph)
    try:
        import_network(path, foreign.set_up(folder, **settings), folder / "made.glass", output)
    finally:
        assert {each.name for each in folder.iterdir()} <= {"network.onnx", "bundle.toml"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mpp": None}, "missing required field `mpp`: give --mpp"),
        ({"licence": None}, "missing required field `licence`: give --licence"),
        ({"kind": None}, "missing required field `kind`"),
        ({"classes": None}, "`classes` is missing"),
        ({"magnification": 20}, "unknown field `magnification`"),
        ({"background": "bone"}, "`background` names 'bone', which is none of stroma, gland, fat"),
        ({"classes": ["a", "", "b"]}, "class '' must be named"),
        ({"std": [1, 0, 1]}, "`std` has to be above 0"),
        ({"mpp": 0.0}, "mpp"),
        ({"kind": "encoder"}, "an encoder has no `classes`"),
        ({"scale": None, "mean": None}, "`scale` is missing: 255 where network.onnx takes pixels from 0 to 1"),
        ({"scale": 255}, "would get values of mean 123.*do not fit together"),
        ({"scale": 255, "std": [58.4, 57.1, 57.4]}, "deviation 0.00.* do not fit together"),
        ({"mean": [0.485, 0.456, 0.406], "std": 0.225}, "would get values of mean .* do not fit together"),
        ({"mean": [0.485, 0.456, 0.406]}, "do not fit together"),
        ({"classes": ["stroma", "gland"]}, r"'softmax' is \[\?, 64, 64, 3\], which is no map of 2 `classes`"),
        ({"classes": ["a", "a", "b"]}, "makes no bundle with these settings: a class is named twice"),
        ({"stride": 128}, "stride 128 exceeds window 64"),
        ({"window": 96}, "takes images of 64 x 64 pixels, `window` is 96"),
        ({"layout": "nchw"}, "no image of 3 channels in the layout nchw"),
        ({"activation": "logits"}, "ends in Softmax, whose values are no logits"),
        ({"activation": "sigmoid"}, "sigmoids of 3 outputs tell of classes that may overlap"),
        ({"kind": "classification"}, r"'softmax' is \[\?, 64, 64, 3\]; classification needs one vector a window"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    settings = {name: value for name, value in (TELLS | changes).items() if value is not None}
    with pytest.raises(GlassError, match=said) as raised:
        try_import(tmp_path, settings)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("graph", "settings", "said"),
    [
        ({"shape": [None] * 4}, {"window": WINDOW}, "does not tell `layout`"),
        ({"shape": ["N", None, None, 3]}, {}, "takes images of any size: `window` has to say"),
        ({"shape": ["N", 64, 32, 3]}, {}, "takes images of 64 x 32 pixels; windows of slides are squares"),
        ({"shape": ["N", 4, 64, 4]}, {}, "which is no image of 3 channels"),
        ({"shape": ["N", 64, 3]}, {}, "has 3 dimensions"),
        ({"dtype": TensorProto.DOUBLE}, {}, "another type than float32 or uint8"),
        ({"dtype": TensorProto.UINT8}, {}, "takes bytes as they are: leave `scale`, `mean` and `std` out"),
        ({"end": ""}, {"activation": "softmax"}, "do not sum to 1: they are no softmax"),
        ({"end": "", "classes": 1}, {"classes": ["a"], "activation": "sigmoid"}, "they are no sigmoid"),
        ({"end": "", "pooled": True}, {}, "no maps of classes"),
        ({"outputs": ["told"]}, {}, "has 2 outputs; name one with --output: softmax, told"),
        ({"opset": 7}, {}, "opset 7 is older than 8"),
        ({"opset": 99}, {}, "ONNX Runtime .* cannot load it"),
        ({"ir_version": 99}, {}, "ONNX Runtime .* cannot load it: .*IR version"),
        ({"more": [NODE("Nonsense", ["told"], ["final"])]}, {}, "ONNX Runtime .* cannot load it: .*Nonsense"),
        ({"end": "", "more": [NODE("Log", ["told"], ["final"])]}, {}, "values that are no numbers"),
        ({"end": "", "more": MEAN_OF_ALL}, {}, "2 windows at once give another output in its bundle"),
        (
            {"shape": [1, 64, 64, 3], "more": [
                NODE("Constant", [], ["flat"], value_ints=[1, 64, 64, 3]), NODE("Reshape", ["told", "flat"], ["final"])
            ]},
            {},
            "2 windows at once give another output in its bundle, export it with a free batch size",
        ),
    ],
)  # fmt: skip
def test_networks_that_make_no_bundle_are_refused(
    graph: dict[str, Any], settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(GlassError, match=said) as raised:
        try_import(tmp_path, TELLS | settings, **graph)
    assert len(str(raised.value).splitlines()) == 1


def test_a_graph_that_does_not_give_what_the_network_gives_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surgery, "LEAST", 0.01)
    with pytest.raises(BundleError, match=r"is not imported: a window gives another output in its bundle \(off by 0.0"):
        try_import(tmp_path, TELLS)


def test_operations_of_others_are_refused(tmp_path: Path) -> None:
    """ONNX Runtime has them, other runtimes do not."""
    path = foreign.write_graph(
        tmp_path / "network.onnx", end="", more=[NODE("Gelu", ["told"], ["final"], domain="com.microsoft")]
    )
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    with pytest.raises(BundleError, match=r"it needs operations of 'com\.microsoft', which are not"):
        import_network(path, foreign.set_up(tmp_path, **TELLS), tmp_path / "made.glass")
    assert not (tmp_path / "made.glass").exists()


def test_an_output_may_be_named_and_takes_only_what_it_needs(tmp_path: Path) -> None:
    path = foreign.write_graph(tmp_path / "network.onnx", outputs=["told"])
    settings = foreign.set_up(tmp_path, **TELLS)
    with pytest.raises(UsageError, match=r"--output absent: .* has none of that name; name one with --output"):
        import_network(path, settings, tmp_path / "made.glass", "absent")
    bundle = import_network(path, settings, tmp_path / "made.glass", "told")
    graph = onnx.load_from_string(bundle.read_graph()).graph
    assert "Softmax" not in {node.op_type for node in graph.node}


@pytest.mark.parametrize("case", ["absent", "rubbish", "weights"])
def test_files_that_are_damaged_are_refused(case: str, tmp_path: Path) -> None:
    path, config = tmp_path / "network.onnx", foreign.write_toml(tmp_path / "bundle.toml", **TELLS)
    if case == "rubbish":
        path.write_bytes(b"no network" * 100)
    if case == "weights":
        model = onnx.load(foreign.write_graph(path))
        onnx.save(model, path, save_as_external_data=True, location="network.onnx.data", size_threshold=0)
        (tmp_path / "network.onnx.data").unlink()
    done = run("import", path, "--config", config, "--out", tmp_path / "made.glass")
    assert_one_line(done, 2, "is no file" if case == "absent" else "is no ONNX file that can be read")
    assert not (tmp_path / "made.glass").exists()


def test_a_model_of_wsinfer_is_read_as_published(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(WSINFER))
    with pytest.raises(UsageError, match="missing required field `licence`: give --licence"):
        load_settings(config, {})
    settings, notes = load_settings(config, {"licence": "CC-BY", "background": "benign"})
    assert notes == (
        "tiles of 100 pixels at 0.88 um, which it resizes to 64, are read as windows of 64 pixels at 1.375 um",
    )
    path = foreign.write_graph(tmp_path / "network.onnx", end="", layout="nchw", pooled=True)
    manifest = import_network(path, settings, tmp_path / "made.glass").manifest
    assert isinstance(manifest, Classification)
    assert (manifest.mpp, manifest.window, manifest.stride) == (1.375, 64, 64)
    assert [each.name for each in manifest.classes] == ["benign", "grade3", "grade4+5"]
    assert (settings.scale, settings.mean, settings.std) == (255, (0.7238, 0.5716, 0.6779), (0.112, 0.1459, 0.1089))


def test_a_bundle_of_monai_is_read_as_published(tmp_path: Path) -> None:
    """What its metadata call a probability is one after further steps: the network's own outputs are logits."""
    config = tmp_path / "metadata.json"
    config.write_text(json.dumps(MONAI))
    with pytest.raises(UsageError, match="missing required field `mpp`: give --mpp"):
        load_settings(config, {"licence": "Apache-2.0"})
    settings, notes = load_settings(config, {"mpp": 0.25, "licence": "Apache-2.0"})
    assert notes == ("its pixels reach the network as -1 to 1, which value_range says",)
    more = [
        NODE("Constant", [], ["factor"], value_float=300.0),
        NODE("Constant", [], ["axes"], value_ints=[2, 3]),
        NODE("Mul", ["told", "factor"], ["large"]),
        NODE("Unsqueeze", ["large", "axes"], ["final"]),
    ]
    path = foreign.write_graph(tmp_path / "network.onnx", end="", classes=1, layout="nchw", pooled=True, more=more)
    told: list[str] = []
    manifest = import_network(path, settings, tmp_path / "made.glass", told=told.append).manifest
    assert isinstance(manifest, Classification)
    assert [each.name for each in manifest.classes] == ["other", "metastasis"]
    assert manifest.trained.startswith("MONAI: Pathology tumor detection 0.6.1, Camelyon dataset; imported from")
    assert told == [
        "its outputs are taken for logits, as they look", "its only output speaks for 'metastasis', against 'other'"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("published", "place", "value", "said"),
    [
        (WSINFER, ["transform", 0, "name"], "CenterCrop", "transform is CenterCrop, ToTensor, Normalize"),
        (WSINFER, ["transform", 0, "arguments", "size"], [64, 32], r"Resize to \[64, 32\] makes no square"),
        (WSINFER, ["transform", 2, "arguments"], {"mean": 0.5}, r"got `null` - at `\$\.std`"),
        (WSINFER, ["num_classes"], 2, "num_classes is 2, class_names has 3"),
        (WSINFER, ["spec_version"], "9.9", "spec_version"),
        (MONAI, ["network_data_format", "inputs", "image", "num_channels"], 1, "takes 1 channels"),
        (MONAI, ["network_data_format", "outputs", "pred", "format"], "labels", "format is 'labels'"),
        (MONAI, ["network_data_format", "outputs"], {"nuclei": {}}, "missing required field `pred`"),
        (MONAI, ["network_data_format"], {}, "missing required field `inputs`"),
        ({"a": 1}, ["a"], 2, "is neither WSInfer's config.json nor the metadata.json of a MONAI bundle"),
    ],
)
def test_what_is_published_otherwise_is_refused(
    published: dict[str, Any], place: list[Any], value: object, said: str, tmp_path: Path
) -> None:
    changed = json.loads(json.dumps(published))
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    config = tmp_path / "config.json"
    config.write_text(json.dumps(changed))
    with pytest.raises(UsageError, match=said):
        load_settings(config, {"mpp": 0.5, "licence": "free"})
