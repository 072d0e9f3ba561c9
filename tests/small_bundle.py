"""A small sound bundle, whose graphs open in milliseconds, and what changes it and pins the change."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WINDOW, STRIDE, CLASSES = 32, 8, 2


def make_graph(quantised: bool, contours: bool = False) -> bytes:
    """A network of a few layers, built of what exported ones are built of."""
    planes = CLASSES + contours
    weights = np.random.default_rng(3)
    side = WINDOW // STRIDE
    constants: dict[str, np.ndarray] = {
        "mean": np.full((1, 3, 1, 1), 128, np.float32),
        "deviation": np.full((1, 3, 1, 1), 64, np.float32),
        "mix.weight": weights.normal(0, 0.2, (4, 3, STRIDE, STRIDE)).astype(np.float32),
        "mix.bias": weights.normal(0, 1, 4).astype(np.float32),
        "flat": np.array([0, 4, side * side], np.int64),
        "pool": weights.normal(0, 1, (side * side, side * side)).astype(np.float32),
        "square": np.array([0, 4, side, side], np.int64),
        "least": np.array(0, np.float32),
        "most": np.array(6, np.float32),
        "tell.weight": weights.normal(0, 1, (planes, 8, 1, 1)).astype(np.float32),
        "step": np.array(0.05, np.float32),
        "zero": np.array(128, np.uint8),
    }
    steps = [
        ("Cast", ["image"], "floats", {"to": TensorProto.FLOAT}),
        ("Transpose", ["floats"], "planes", {"perm": [0, 3, 1, 2]}),
        ("Sub", ["planes", "mean"], "centred", {}),
        ("Div", ["centred", "deviation"], "scaled", {}),
        ("Conv", ["scaled", "mix.weight", "mix.bias"], "mixed", {"strides": [STRIDE, STRIDE]}),
        ("Clip", ["mixed", "least", "most"], "clipped", {}),
        ("Reshape", ["clipped", "flat"], "rows", {}),
        ("MatMul", ["rows", "pool"], "pooled", {}),
        ("Reshape", ["pooled", "square"], "spread", {}),
        ("Concat", ["clipped", "spread"], "both", {"axis": 1}),
        ("Conv", ["both", "tell.weight"], "logits", {"kernel_shape": [1, 1]}),
    ]
    if quantised:
        steps[5:5] = [
            ("QuantizeLinear", ["mixed", "step", "zero"], "bytes", {}),
            ("DequantizeLinear", ["bytes", "step", "zero"], "mixed8", {}),
        ]
        steps[7] = ("Clip", ["mixed8", "least", "most"], "clipped", {})
    nodes = [helper.make_node(kind, given, [made], made, **options) for kind, given, made, options in steps]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", WINDOW, WINDOW, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", planes, side, side])
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "small", [image], [logits], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def make_bundle(folder: Path, contours: bool = False) -> Path:
    """A small bundle with graphs in two precisions, an example and checks, all of it sound; glands with contours."""
    folder.mkdir(parents=True)
    files = {"fp32.onnx": make_graph(False, contours), "int8_cpu.onnx": make_graph(True, contours)}
    import onnxruntime

    image = np.random.default_rng(1).integers(0, 256, (1, WINDOW, WINDOW, 3), np.uint8)
    logits = onnxruntime.InferenceSession(files["fp32.onnx"]).run(None, {"image": image})[0]
    stored = io.BytesIO()
    np.savez_compressed(stored, image=image, logits=logits)
    files["example.npz"] = stored.getvalue()
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest = {
        "format": 2, "kind": "segmentation", "name": "small", "mpp": 0.5, "window": WINDOW, "stride": 24,
        "output_stride": STRIDE, "scales": [0.75, 1.0], "flips": True, "trained": "not at all", "licence": "none",
        "classes": [{"name": "other", "color": [0, 0, 0]}, {"name": "gland", "color": [1, 2, 3]}],
        "graphs": [
            {"file": "fp32.onnx", "sha256": sums["fp32.onnx"], "kept_float": []},
            {"file": "int8_cpu.onnx", "sha256": sums["int8_cpu.onnx"], "precision": "int8", "target": "cpu"},
        ],
        "examples": [{"file": "example.npz", "sha256": sums["example.npz"]}],
        "calibrated": [{"fingerprint": "0" * 64, "box": [0, 0, 100, 100]}],
    }  # fmt: skip
    if contours:
        manifest |= {"contour_of": "gland", "smallest_um2": 20.0}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    write_manifest(folder, manifest)
    sha256 = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    check = {
        "bundle": sha256, "backend": "ort", "version": "1", "device": "CPU", "isa": "avx2", "precision": "int8",
        "passed": True, "windows": 1, "largest": 0.1, "mean": 0.1, "nan": 0, "flips": 0.0, "miou_change": None,
    }  # fmt: skip
    (folder / "checks.json").write_text(json.dumps([check]))
    return folder


def write_manifest(folder: Path, manifest: Any) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest))


def read_manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


def make_first_format(manifest: dict[str, Any]) -> None:
    """Write a manifest as the first format did."""
    (example,) = manifest.pop("examples")
    manifest.update(format=1, example=example, verified=[])


def pin(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and what the manifest says its sha256 is."""
    (folder / name).write_bytes(content)
    manifest = read_manifest(folder)
    for entry in (*manifest["graphs"], *manifest["examples"]):
        if entry["file"] == name:
            entry["sha256"] = hashlib.sha256(content).hexdigest()
    write_manifest(folder, manifest)


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])
