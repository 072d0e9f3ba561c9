"""Small bundles for bags and of encoders, whose networks are a few lines of NumPy too."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, CELL, MPP = 64, 16, 0.5
FEATURES = 3 * (SIDE // CELL) ** 2
CLASSES = ("stroma", "gland", "fat")


def weights(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """What makes scores `[d]` and logits `[d, 1 or C]` of features."""
    random = np.random.default_rng(classes)
    scoring, telling = random.normal(0, 1, FEATURES), random.normal(0, 1, (FEATURES, 1 if classes == 2 else classes))
    scoring, telling = scoring - scoring.mean(), telling - telling.mean(axis=0)  # of how bright a tile is, nothing
    return scoring.astype(np.float32), telling.astype(np.float32)


def encode(tiles: np.ndarray) -> np.ndarray:
    """Features `[N, d]` of tiles `[N, SIDE, SIDE, 3]`: the means of cells of each channel, in hundredths."""
    cells = tiles.astype(np.float64).reshape(len(tiles), SIDE // CELL, CELL, SIDE // CELL, CELL, 3).mean((2, 4))
    means: np.ndarray = cells.transpose(0, 3, 1, 2).reshape(len(tiles), -1) / 100
    return means


def head(features: np.ndarray, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Scores `[N]` and logits `[N, 1 or C]`."""
    scoring, telling = weights(classes)
    return features @ scoring.astype(np.float64), features @ telling.astype(np.float64)


def make_graph(takes: str, gives: tuple[str, ...], classes: int = 2) -> bytes:
    """The network as ONNX."""
    scoring, telling = weights(classes)
    batch = "batch"
    nodes = [
        helper.make_node("Cast", ["tile"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["cells"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Flatten", ["cells"], ["means"], axis=1),
        helper.make_node("Div", ["means", "hundred"], ["features"]),
    ]
    inputs = [helper.make_tensor_value_info("tile", TensorProto.UINT8, [batch, SIDE, SIDE, 3])]
    if takes == "features":
        nodes, inputs = [], [helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, FEATURES])]
    if "scores" in gives:
        nodes.append(helper.make_node("MatMul", ["features", "scoring"], ["scores"]))
    if "logits" in gives:
        nodes.append(helper.make_node("MatMul", ["features", "telling"], ["logits"]))
    shapes: dict[str, list[Any]] = {
        "features": [batch, FEATURES], "scores": [batch], "logits": [batch, telling.shape[1]]
    }  # fmt: skip
    constants = {"hundred": np.array(100, np.float32), "scoring": scoring, "telling": telling}
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes, "small", inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in gives],
        [numpy_helper.from_array(values, name) for name, values in constants.items() if name in used],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def make_bundle(folder: Path, kind: str = "mil", takes: str = "tiles", classes: int = 2, **changes: Any) -> Path:
    """A sound bundle with its example; `changes` of the manifest may make it another."""
    import onnxruntime

    gives = {"encoder": ("features",), "mil": ("features", "scores", "logits"), "classification": ("logits",)}[kind]
    gives = gives if takes == "tiles" else gives[1:]
    graph, random = make_graph(takes, gives, classes), np.random.default_rng(1)
    tile = random.integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    given = {"tile": tile} if takes == "tiles" else {"features": encode(tile).astype(np.float32)}
    stored = io.BytesIO()
    found = dict(zip(gives, onnxruntime.InferenceSession(graph).run(list(gives), given), strict=True))
    np.savez_compressed(stored, **given, **found)  # type: ignore[arg-type]
    folder.mkdir(parents=True)
    entries = {}
    for name, content in {"fp32.onnx": graph, "example.npz": stored.getvalue()}.items():
        (folder / name).write_bytes(content)
        entries[name] = {"file": name, "sha256": hashlib.sha256(content).hexdigest()}
    manifest = {
        "format": 2, "kind": kind, "name": "small", "mpp": MPP, "window": SIDE, "stride": SIDE, "features": FEATURES,
        "trained": "not at all", "licence": "none", "graphs": [entries["fp32.onnx"]],
        "examples": [entries["example.npz"]],
    }  # fmt: skip
    if kind == "classification":
        del manifest["features"]
    if kind != "encoder":
        named = [{"name": name, "color": [9 * at, 0, 9]} for at, name in enumerate(CLASSES[:classes])]
        manifest |= {"classes": named, "output_stride": SIDE, "scales": [1.0], "flips": False}
        manifest |= {"overlay": "heat"}
    if kind == "mil":
        manifest |= {"pooling": "attention", "takes": takes}
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    return folder
