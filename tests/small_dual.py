"""A small dual-input bundle, whose two graphs open in milliseconds: with vectors as features, or maps and places."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from small_bundle import write_manifest

WINDOW, STRIDE, CLASSES, FACTOR, MPP = 32, 8, 2, 4.0, 0.5
SIDE = WINDOW // STRIDE
VECTORS = [{"name": "pooled", "shape": [4]}, {"name": "brightness", "shape": [1]}]
MAPS = [{"name": "map", "shape": [4, SIDE, SIDE]}]
PREPARE = [
    ("Cast", ["IMAGE"], "floats", {"to": TensorProto.FLOAT}),
    ("Transpose", ["floats"], "planes", {"perm": [0, 3, 1, 2]}),
    ("Sub", ["planes", "mean"], "centred", {}),
    ("Div", ["centred", "deviation"], "scaled", {}),
    ("Conv", ["scaled", "mix.weight"], "mixed", {"strides": [STRIDE, STRIDE]}),
    ("Tanh", ["mixed"], "bent", {}),
]


def build(
    steps: list[tuple[str, list[str], str, dict[str, Any]]],
    inputs: dict[str, tuple[int, list[int]]],
    outputs: dict[str, list[int]],
    seed: int,
) -> bytes:
    """A graph of steps, after what prepares its first input, which is an image."""
    weights = np.random.default_rng(seed)
    constants = {
        "mean": np.full((1, 3, 1, 1), 128, np.float32),
        "deviation": np.full((1, 3, 1, 1), 64, np.float32),
        "mix.weight": weights.normal(0, 0.1, (4, 3, STRIDE, STRIDE)).astype(np.float32),
        "tell.weight": weights.normal(0, 1, (CLASSES, 4, 1, 1)).astype(np.float32),
        "hear.weight": weights.normal(0, 1, (4, 4, 1, 1)).astype(np.float32),
        "loud": np.array([[[[2]], [[-2]]]], np.float32),
        "plane.4": np.array([0, 4, 1, 1], np.int64),
        "plane.2": np.array([0, 2, 1, 1], np.int64),
        "plane.1": np.array([0, 1, 1, 1], np.int64),
        "flat": np.array([0, -1], np.int64),
        "axes": np.array([1], np.int64),
    }
    image = next(iter(inputs))
    every = [
        (kind, [image if name == "IMAGE" else name for name in given], made, o) for kind, given, made, o in PREPARE
    ]
    every += steps
    nodes = [helper.make_node(kind, given, [made], made, **options) for kind, given, made, options in every]
    taken = {name for _, given, _, _ in every for name in given}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, kind, ["batch", *shape]) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in taken],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def make_graphs(maps: bool) -> dict[str, bytes]:
    """The graphs `context` and `fine`. The only feature of maps goes by another name in the first, as it may."""
    pixels = (TensorProto.UINT8, [WINDOW, WINDOW, 3])
    number = TensorProto.FLOAT
    logits = {"logits": [CLASSES, SIDE, SIDE]}
    if maps:
        context = build([("Identity", ["bent"], "drawn", {})], {"context": pixels}, {"drawn": [4, SIDE, SIDE]}, 1)
        steps = [
            ("Conv", ["map", "hear.weight"], "heard", {}),
            ("Add", ["bent", "heard"], "both", {}),
            ("Conv", ["both", "tell.weight"], "told", {}),
            ("Reshape", ["place", "plane.2"], "where", {}),
            ("Mul", ["where", "loud"], "there", {}),
            ("Add", ["told", "there"], "logits", {}),
        ]
        inputs = {"fine": pixels, "map": (number, [4, SIDE, SIDE]), "place": (number, [2])}
        return {"context": context, "fine": build(steps, inputs, logits, 2)}
    pooling = [
        ("GlobalAveragePool", ["bent"], "means", {}),
        ("Reshape", ["means", "flat"], "pooled", {}),
        ("ReduceMean", ["pooled", "axes"], "brightness", {"keepdims": 1}),
    ]
    context = build(pooling, {"context": pixels}, {"pooled": [4], "brightness": [1]}, 1)
    steps = [
        ("Reshape", ["pooled", "plane.4"], "heard", {}),
        ("Add", ["bent", "heard"], "both", {}),
        ("Conv", ["both", "tell.weight"], "told", {}),
        ("Reshape", ["brightness", "plane.1"], "light", {}),
        ("Mul", ["light", "loud"], "there", {}),
        ("Add", ["told", "there"], "logits", {}),
    ]
    inputs = {"fine": pixels, "pooled": (number, [4]), "brightness": (number, [1])}
    return {"context": context, "fine": build(steps, inputs, logits, 2)}


def make_dual(folder: Path, anchor: str = "tile", maps: bool = False, graphs: dict[str, bytes] | None = None) -> Path:
    """A sound bundle of both networks, with examples; that of maps is placed."""
    import onnxruntime

    folder.mkdir(parents=True)
    graphs = graphs or make_graphs(maps)
    random = np.random.default_rng(1)
    given: dict[str, np.ndarray] = {}
    files: dict[str, bytes] = {}
    for role, features in (("context", []), ("fine", MAPS if maps else VECTORS)):
        inputs: dict[str, np.ndarray] = {role: random.integers(0, 256, (1, WINDOW, WINDOW, 3), np.uint8)}
        inputs |= {feature["name"]: given[feature["name"]] for feature in features}
        inputs |= {"place": np.array([[0.25, 0.5]], np.float32)} if maps and role == "fine" else {}
        values = onnxruntime.InferenceSession(graphs[role]).run(None, inputs)
        names = [feature["name"] for feature in (MAPS if maps else VECTORS)] if role == "context" else ["logits"]
        given |= dict(zip(names, values, strict=True))
        stored = io.BytesIO()
        np.savez_compressed(stored, **inputs, **{name: given[name] for name in names})  # type: ignore[arg-type]
        files |= {f"{role}_fp32.onnx": graphs[role], f"{role}_example.npz": stored.getvalue()}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    entries = {name: {"file": name, "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()}
    write_manifest(folder, {
        "format": 2, "kind": "dual", "name": "small", "mpp": MPP, "window": WINDOW, "stride": 24,
        "output_stride": STRIDE, "scales": [1.0], "flips": False, "trained": "not at all", "licence": "none",
        "classes": [{"name": "other", "color": [0, 0, 0]}, {"name": "gland", "color": [1, 2, 3]}],
        "context_side": WINDOW,
        "context_factor": FACTOR, "context_anchor": anchor, "features": MAPS if maps else VECTORS, "placed": maps,
        "graphs": [{**entries[f"{role}_fp32.onnx"], "role": role} for role in ("context", "fine")],
        "examples": [{**entries[f"{role}_example.npz"], "role": role} for role in ("context", "fine")],
    })  # fmt: skip
    return folder
