"""Networks that others stored, as bundles: each gives on a slide what its own framework gives on the same windows."""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import foreign_networks as foreign
import h5py
import numpy as np
import onnx
import pytest
import torch
from command_line import run
from foreign_networks import NORMALISED, SEGMENTS, WINDOW
from known import run_windows
from onnx import TensorProto, helper

from glassrt.engine import ArraySlide, open_bundle, open_slide, score, segment_image
from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.kinds.classification import Classification
from glassrt.engine.bundles.kinds.segmentation import Segmentation
from glassrt.engine.errors import UsageError
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.tasks.tiles import embed
from glassrt.export.calibration import paint_window
from glassrt.export.importing.bundle import import_network
from glassrt.export.verify import verify

MPP = 0.5
CLOSE = 1e-4


@pytest.fixture(scope="module")
def region(demo_slide: Path) -> np.ndarray:
    """A piece of real tissue, `[128, 192, 3]`."""
    with open_slide(demo_slide) as slide:
        return np.array(slide.read_level(0, (900, 1100), (192, 128)))


def segment(bundle: Bundle, pixels: np.ndarray, runtime: str = "ort") -> np.ndarray:
    """Class probabilities `[C, H, W]`."""
    backend = open_backend(bundle, runtime)
    found = segment_image(pixels, MPP, bundle, backend)
    backend.close()
    return found


@pytest.mark.parametrize("runtime", ["ort", "openvino"])
def test_a_unet_of_torch_segments_as_it_does(runtime: str, region: np.ndarray, tmp_path: Path) -> None:
    network = foreign.make_network(foreign.UNet)
    path = foreign.export_plainly(network, tmp_path / "unet.onnx")  # for one window at a time
    settings = foreign.set_up(tmp_path, **SEGMENTS, **NORMALISED, background="fat", origin="a test")
    bundle = import_network(path, settings, tmp_path / "unet.glass")
    manifest = bundle.manifest
    assert isinstance(manifest, Segmentation)
    assert [each.name for each in manifest.classes] == ["fat", "stroma", "gland"]
    assert (manifest.window, manifest.stride, manifest.output_stride) == (WINDOW, WINDOW * 3 // 4, 1)
    assert (manifest.trained, manifest.licence) == ("a test; imported from unet.onnx", "free")
    pixels = region[:WINDOW, :112]
    with torch.inference_mode():
        left, right = (network(foreign.give_normalised(pixels[None, :, at : at + WINDOW]))[0].numpy() for at in (0, 48))
    sums, counts = np.zeros((3, WINDOW, 112)), np.zeros(112)
    for at, logits in ((0, left), (48, right)):
        sums[:, :, at : at + WINDOW] += logits
        counts[at : at + WINDOW] += 1
    powers = np.exp(sums / counts)[[2, 0, 1]]
    assert np.abs(segment(bundle, pixels, runtime) - powers / powers.sum(0)).max() < CLOSE


def test_a_resnet_with_its_weights_beside_it_tells_tiles_apart_as_torch_does(
    region: np.ndarray, tmp_path: Path
) -> None:
    network = foreign.make_network(foreign.ResNet)
    path = foreign.export_plainly(network, tmp_path / "resnet.onnx", free=True, external_data=True)
    beside = tmp_path / "resnet.onnx.data"
    assert beside.stat().st_size > 40e6
    config = foreign.write_toml(tmp_path / "bundle.toml", **SEGMENTS | NORMALISED | {"kind": "classification"})
    out = tmp_path / "resnet.glass"
    done = run("import", path, "--config", config, "--out", out, "--mpp", MPP, "--licence", "none")
    assert done.returncode == 0, done.stderr
    assert "'stroma', the first class, is the background" in done.stderr
    beside.unlink()
    bundle = open_bundle(out)
    bundle.check_files()
    assert isinstance(bundle.manifest, Classification)
    assert bundle.manifest.licence == "none"
    score(ArraySlide(region, MPP), bundle, tmp_path / "scored", "ort", tissue="all")
    with (tmp_path / "scored" / "tiles.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    places = [(int(row["y"]), int(row["x"])) for row in rows]
    tiles = np.stack([region[y : y + WINDOW, x : x + WINDOW] for y, x in places])
    with torch.inference_mode():
        wanted = network(foreign.give_normalised(tiles)).softmax(1).numpy()
    found = np.array([[float(row[f"{name}_probability"]) for name in ("stroma", "gland", "fat")] for row in rows])
    assert np.abs(found - wanted).max() < CLOSE


def test_a_transformer_embeds_as_torch_does(region: np.ndarray, tmp_path: Path) -> None:
    network = foreign.make_network(foreign.Transformer)
    path = foreign.export_plainly(
        network, tmp_path / "vit.onnx", free=True, external_data=False, output_names=["first", "tokens"]
    )
    settings = foreign.set_up(tmp_path, kind="encoder", mpp=MPP, licence="free", **NORMALISED)
    bundle = import_network(path, settings, tmp_path / "vit.glass", output="first")
    assert len(bundle.read_graph()) < path.stat().st_size * 1.1
    for runtime in ("ort", "openvino"):
        backend = open_backend(bundle, runtime)
        embed(ArraySlide(region, MPP), bundle, tmp_path / f"{runtime}.h5", backend, tissue="all")
        backend.close()
        with h5py.File(tmp_path / f"{runtime}.h5") as file:
            features, corners = np.array(file["features"]).reshape(6, 24), np.array(file["coords"]).reshape(6, 2)
        tiles = np.stack([region[y : y + WINDOW, x : x + WINDOW] for x, y in corners.astype(int)])
        with torch.inference_mode():
            wanted = network(foreign.give_normalised(tiles))[0].numpy()
        assert np.abs(features - wanted).max() < CLOSE * np.abs(wanted).max()


CAFFE = {"scale": 1, "mean": [103.939, 116.779, 123.68], "bgr": True}


def give_caffe(pixels: np.ndarray) -> np.ndarray:
    """A window `[H, W, 3]` as Keras' older networks take it, `[1, H, W, 3]`."""
    return (pixels[..., ::-1].astype(np.float32) - np.float32(CAFFE["mean"]))[None]


def test_a_graph_of_keras_segments_as_it_does(region: np.ndarray, tmp_path: Path) -> None:
    path = foreign.write_graph(tmp_path / "keras.onnx", shape=["N", None, None, 3])
    told: list[str] = []
    settings = foreign.set_up(tmp_path, **SEGMENTS, **CAFFE, window=WINDOW, background="gland")
    bundle = import_network(path, settings, tmp_path / "keras.glass", told=told.append)
    assert told == ["its outputs are taken for softmax, as they look"]
    wanted = foreign.run_plainly(path, give_caffe(region[:WINDOW, :WINDOW]))[0].transpose(2, 0, 1)
    assert wanted.max() - wanted.min() > 0.5
    found = segment(bundle, region[:WINDOW, :WINDOW])
    assert np.abs(found - wanted[[1, 0, 2]]).max() < CLOSE
    checks = verify(bundle, {"image": paint_window(WINDOW)})
    assert {(check.backend, check.passed) for check in checks if check.precision == "fp32"} >= {
        ("ort", True),
        ("openvino", True),
    }


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("classes", "background", "at"), [(["gland"], None, 1), (["gland", "tumour"], None, 1), (["a", "b"], "b", 0)]
)
def test_one_output_tells_two_classes(
    last: bool, classes: list[str], background: str | None, at: int, region: np.ndarray, tmp_path: Path
) -> None:
    """Bytes in planes, and a sigmoid at the end or one that others take too, which stays."""
    more = [helper.make_node("Sigmoid", ["told"], ["shares"]), helper.make_node("Mul", ["shares", "shares"], ["final"])]
    path = foreign.write_graph(
        tmp_path / "one.onnx", "Sigmoid" if last else "", 1, "nchw", TensorProto.UINT8, more=() if last else more
    )
    keys = SEGMENTS | {"classes": classes} | ({"background": background} if background else {})
    keys |= {} if last else {"activation": "sigmoid"}
    bundle = import_network(path, foreign.set_up(tmp_path, **keys), tmp_path / "one.glass")
    assert isinstance(bundle.manifest, Segmentation)
    names = [each.name for each in bundle.manifest.classes]
    assert names == (["other", *classes] if len(classes) == 1 else classes if background is None else classes[::-1])
    pixels = region[:WINDOW, :WINDOW]
    wanted = foreign.run_plainly(path, pixels.transpose(2, 0, 1)[None])[0, 0]
    found = segment(bundle, pixels)
    assert np.abs(found[at] - wanted).max() < CLOSE
    assert ("Log" in {node.op_type for node in onnx.load_from_string(bundle.read_graph()).graph.node}) != last


def test_names_that_the_bundle_has_too_do_not_collide(region: np.ndarray, tmp_path: Path) -> None:
    """The network's image and a value of it are called as the bundle's; graphs within it take what lies outside."""
    branches = [
        helper.make_graph(
            [helper.make_node(operation, ["logits", "image"], [f"{name}_"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_", TensorProto.FLOAT, None)],
        )
        for name, operation in (("then", "Add"), ("else", "Sub"))
    ]
    more = [
        helper.make_node("Constant", [], ["constant"], value=helper.make_tensor("c", TensorProto.BOOL, [1], [True])),
        helper.make_node("Identity", ["told"], ["logits"]),
        helper.make_node("If", ["constant"], ["final"], then_branch=branches[0], else_branch=branches[1]),
    ]
    path = foreign.write_graph(tmp_path / "named.onnx", "", more=more, names=("image", "made_"))
    settings = foreign.set_up(tmp_path, **SEGMENTS, **CAFFE)
    bundle = import_network(path, settings, tmp_path / "named.glass")
    given = give_caffe(region[:WINDOW, :WINDOW])
    powers = np.exp(foreign.run_plainly(path, given)[0].transpose(2, 0, 1).astype(np.float64))
    assert np.abs(segment(bundle, region[:WINDOW, :WINDOW]) - powers / powers.sum(0)).max() < CLOSE


def write_old(path: Path) -> Path:
    """As the third version of ONNX's files had it: weights among the inputs."""
    model = onnx.load(foreign.write_graph(path, opset=9, ir_version=3))
    model.graph.input.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, [3, 3, 3, 3]))
    onnx.save(model, path)
    return path


def write_four(path: Path) -> Path:
    """For four windows at once, no more and no less."""
    return foreign.write_graph(path, shape=[4, WINDOW, WINDOW, 3])


def write_function(path: Path) -> Path:
    """With an operation of its own, which is a function of ONNX's."""
    model = onnx.load(foreign.write_graph(path, more=[helper.make_node("Twice", ["told"], ["final"], domain="own")]))
    add, version = helper.make_node("Add", ["x", "x"], ["y"]), helper.make_opsetid("", 13)
    model.functions.append(helper.make_function("own", "Twice", ["x"], ["y"], [add], [version]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("write", [write_old, write_four, write_function])
def test_files_may_be_old_or_of_fixed_batches_or_have_functions(
    write: Callable[[Path], Path], region: np.ndarray, tmp_path: Path
) -> None:
    path = write(tmp_path / "foreign.onnx")
    bundle = import_network(path, foreign.set_up(tmp_path, **SEGMENTS, **CAFFE), tmp_path / "made.glass")
    given = np.repeat(give_caffe(region[:WINDOW, :WINDOW]), 4 if write is write_four else 1, axis=0)
    wanted = foreign.run_plainly(path, given)[0].transpose(2, 0, 1)
    for runtime in ("ort", "openvino"):
        assert np.abs(segment(bundle, region[:WINDOW, :WINDOW], runtime) - wanted).max() < CLOSE


def test_no_torch_is_needed(tmp_path: Path) -> None:
    path = foreign.write_graph(tmp_path / "keras.onnx")
    config = foreign.write_toml(tmp_path / "bundle.toml", **SEGMENTS, **CAFFE)
    code = (
        "import sys; from pathlib import Path; sys.modules['torch'] = None\n"
        "from glassrt.engine.commands.main import main\n"
        f"sys.argv = ['glassrt', 'import', {str(path)!r}, '--config', {str(config)!r}, '--out', "
        f"{str(tmp_path / 'keras.glass')!r}]\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert open_bundle(tmp_path / "keras.glass").manifest.name == "keras"


def test_it_is_tried_on_slides_that_are_named(demo_slide: Path, tmp_path: Path) -> None:
    """Else on a painted window, which tells nothing of its tissue's stain."""
    path = foreign.write_graph(tmp_path / "keras.onnx")
    settings = foreign.set_up(tmp_path, **SEGMENTS, **CAFFE)
    painted = import_network(path, settings, tmp_path / "painted.glass")
    known = painted.read_example()
    assert known is not None
    assert np.array_equal(known.inputs["image"], paint_window(WINDOW))
    assert painted.example_window is None
    bundle = import_network(path, settings, tmp_path / "keras.glass", tissue=demo_slide.parent)
    window = bundle.example_window
    assert window is not None
    assert np.abs(window.astype(int) - paint_window(WINDOW)[0]).max() > 50


def test_lower_precisions_are_made_on_the_slides_that_it_is_tried_on(demo_slide: Path, tmp_path: Path) -> None:
    path = foreign.write_graph(tmp_path / "keras.onnx")
    settings, precisions = foreign.set_up(tmp_path, **SEGMENTS, **CAFFE), ("fp32", "fp16", "int8")
    bundle = import_network(path, settings, tmp_path / "made.glass", tissue=demo_slide.parent, precisions=precisions)
    files = {graph.file for graph in bundle.manifest.graphs}
    assert files == {"fp32.onnx", "fp16.onnx", "int8_gpu.onnx", "int8_cpu.onnx"}
    assert len(bundle.manifest.calibrated) == 1
    window = bundle.example_window
    assert window is not None
    exact, found = (
        run_windows(open_backend(bundle, "ort", precision=precision), window[None]) for precision in ("fp32", "int8")
    )
    assert 0 < np.abs(exact - found).max() < 0.1 * np.abs(exact).max()
    with pytest.raises(UsageError, match="int8 needs --tiles: a folder of slides or images"):
        import_network(path, settings, tmp_path / "other.glass", precisions=precisions)
